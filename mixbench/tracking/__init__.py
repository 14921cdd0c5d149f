"""The view of a run in W&B."""
