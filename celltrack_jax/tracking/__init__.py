"""Detections to links: features, candidate graphs, assignment."""
