"""The command line; each file holds a group of commands and loads only what they need."""

from mixbench.cli.parser import main

__all__ = ["main"]
