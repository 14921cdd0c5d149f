"""Data: images, labels, maps, the order in which batches are drawn, and loaders."""

from mixbench.config.names import DATA

__all__ = ["DATA"]
