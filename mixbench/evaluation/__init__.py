"""Judging a finished network, ``model: pixels (B, C, H, W) in [0, 1] -> logits (B, K)``.

One suite a file: ``calibration adversarial occlusion salience shuffle linearity gaze``, each a
:class:`mixbench.evaluation.suite.Suite`. ``attacks``, ``autoattack`` and ``patches`` hold what they
compute with, ``inference`` the one loop over a loader.
"""
