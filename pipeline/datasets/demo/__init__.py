"""A small rendered world with a known truth: its scenes, pictures, sentences, and the reader."""

from pipeline.datasets.demo.reader import expected, prepare, read

__all__ = ["expected", "prepare", "read"]
