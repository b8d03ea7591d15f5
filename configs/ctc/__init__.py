"""Cell Tracking Challenge data sets."""
