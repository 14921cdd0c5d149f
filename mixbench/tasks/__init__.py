"""Tasks: what is learned from which labels, and how outputs are judged. One file each."""
