"""Mouse muscle stem cells in bright field: segmentation in time."""
