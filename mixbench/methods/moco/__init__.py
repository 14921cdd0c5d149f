"""MoCo v2, and SAMix without labels on it."""
