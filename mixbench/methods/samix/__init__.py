"""AutoMix and SAMix: a network that is trained along draws the masks."""
