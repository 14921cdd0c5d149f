"""Networks by stages, so that methods can act between them."""

from mixbench.config.names import NETS

__all__ = ["NETS"]
