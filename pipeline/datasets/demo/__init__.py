"""A small rendered world with a known truth: its scenes, pictures, sentences, and the reader."""

from pipeline.datasets.demo.reader import expected, facts, prepare, read

__all__ = ["expected", "facts", "prepare", "read"]
