"""What the notebooks call: real images, pictures and tables of settings, and small runs."""
