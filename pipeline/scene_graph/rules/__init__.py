"""Dependency trees -> triplets."""
