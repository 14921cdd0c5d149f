"""One of several methods for each batch."""
