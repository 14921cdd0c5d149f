"""A page on which people judge mixed images, and what becomes of their judgements.

``mixbench elicit`` draws stimuli with the methods of this package (:mod:`stimuli`), keeps them and
the judgements in one SQLite file (:mod:`study`), and shows them on a page (:mod:`server`,
:mod:`guard`, :mod:`page`). ``mixbench elicit export`` writes the judgements for other programs and
for ``method=hmix`` (:mod:`export`), ``mixbench elicit report`` a page of what they are worth
(:mod:`report`).

The tasks and the course of a session follow Collins et al., "Human-in-the-Loop Mixup", UAI 2023,
arXiv:2211.01202.
"""
