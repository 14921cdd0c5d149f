"""The methods: one file each, or a folder where several share code."""

from mixbench.config.names import METHODS

register = METHODS.register
list_methods = METHODS.names

__all__ = ["METHODS", "list_methods", "register"]
