"""What happens around training: scores, speed, pictures, checkpoints, curves and progress."""
