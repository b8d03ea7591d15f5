"""Jit-able array maths: no files, no models, no state."""
