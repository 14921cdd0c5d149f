"""Plots of finished runs: one file a kind, one style for all.

``kinds`` names the kinds, ``draw`` draws one of them, and ``export`` writes it. No global state of
Matplotlib changes on the way.
"""
