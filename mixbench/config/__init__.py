"""Configurations: their keys, and where values come from."""
