"""Nuclei in stacks as instances."""
