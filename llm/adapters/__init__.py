"""Adapters: low-rank updates, the folders that hold them, and how an expert is trained."""
