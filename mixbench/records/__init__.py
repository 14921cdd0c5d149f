"""Files that runs write, and their readers."""
