"""Learned parts of methods as plain modules, for use without Lightning."""
