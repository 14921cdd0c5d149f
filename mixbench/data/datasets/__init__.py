"""The data sets, one a file, and what their original distributions share."""
