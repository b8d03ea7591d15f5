"""Scores of segmentations and lineages, in numpy."""
