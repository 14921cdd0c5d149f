"""Callbacks of training: scores, speed, pictures, checkpoints, curves and progress."""
