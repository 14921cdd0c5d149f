"""Intervals, tests and bootstraps; nothing here knows of runs."""
