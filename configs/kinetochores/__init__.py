"""Kinetochores in anisotropic volumes: as points, as instances, and what is learned before any annotation."""
