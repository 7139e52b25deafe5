"""Shards -> batches."""

from train.data.cache import Cache
from train.data.loader import BatchBuffer, CudaPrefetcher, Loader

__all__ = ["BatchBuffer", "Cache", "CudaPrefetcher", "Loader"]
