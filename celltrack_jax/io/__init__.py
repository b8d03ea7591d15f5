"""One file per format at the border."""
