"""Kaggle Sartorius: instances of neuronal cells (docs/originals.md, 3)."""
