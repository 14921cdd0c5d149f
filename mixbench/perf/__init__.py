"""Speed measurements against peers, as ratios within one process; ``python -m mixbench.perf``."""
