"""Thin absl mains; everything they do lives in celltrack_jax."""
