"""The store, crops drawn from it, augmentation, synthetic movies."""
