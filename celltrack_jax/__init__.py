"""celltrack-jax: cell segmentation and tracking on microscopy movies, 2D and 3D."""

from celltrack_jax.ops import cpu

# All that computes passes here, and before the first computation starts the backend.
cpu.spare_ynnpack()
