"""Common corruptions of images, batched: fifteen kinds and four more for tuning, five severities.

Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261; official code hendrycks/robustness. Every
random array can be given; otherwise it is drawn by the seed and the number of the image, so that a
batch, a device or a number of processes changes nothing. The textures of ``frost`` are made here
(:mod:`mixbench.evaluation.corruptions.textures`), as the official ones state no licence.
"""
