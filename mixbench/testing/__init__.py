"""Checks that any method has to pass, and what they are carried out on."""
