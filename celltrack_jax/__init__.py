"""celltrack-jax: cell segmentation and tracking on microscopy movies, 2D and 3D."""
