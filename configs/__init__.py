"""Experiments: one file each, with get_config(arg) and, where it is ablated, sweep(add)."""
