"""Augmentation of images, of whole batches, and the views of learning without labels."""
