"""Several processes of one run: who they are, how they start, how they are told to stop."""
