"""Judging a finished network, ``model: pixels (B, C, H, W) in [0, 1] -> logits (B, K)``."""
