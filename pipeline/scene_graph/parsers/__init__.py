"""Captions -> dependency trees: CoreNLP, or the shallow parser."""
