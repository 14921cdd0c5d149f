"""A race: which method is best for some data within a time, and how sure that is.

Methods are halved on rotating hold-outs of the training set; the winner and plain training are then
trained anew with fresh seeds and tested once.
"""
