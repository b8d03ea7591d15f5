"""Kaggle Sartorius: instances of neuronal cells (shared/specs/sartorius.md)."""
