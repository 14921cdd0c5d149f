"""From a grid to runs, and the runs onto a machine."""
