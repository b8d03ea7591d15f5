"""Pictures, curves and one self-contained page."""
