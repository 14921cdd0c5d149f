"""AlignMix, and the autoencoder that may be trained along with it."""
