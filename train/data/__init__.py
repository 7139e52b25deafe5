"""Shards -> batches."""

from train.data.cache import Cache, Features
from train.data.loader import BatchBuffer, CudaPrefetcher, Loader

__all__ = ["BatchBuffer", "Cache", "CudaPrefetcher", "Features", "Loader"]
