"""Helpers of the notebooks: real images, pictures and tables of settings, and small runs."""
