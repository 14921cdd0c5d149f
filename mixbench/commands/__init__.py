"""What each command of the command line does; each loads only what it needs."""
