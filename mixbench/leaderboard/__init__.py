"""Records of finished runs as rows, comparisons and tables."""
