"""HeLa nuclei as points, without masks."""
