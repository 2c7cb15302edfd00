"""Texts and attributes into vectors, cached on disk."""
