"""Denoising-GAN and demixing-GAN: components of sums that were never seen alone."""
