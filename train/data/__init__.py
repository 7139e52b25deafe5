"""Shards -> batches."""

from train.data.cache import Cache
from train.data.loader import BatchBuffer, CudaPrefetcher, Loader
from train.data.verbs import told_captions, verbs_said

__all__ = ["BatchBuffer", "Cache", "CudaPrefetcher", "Loader", "told_captions", "verbs_said"]
