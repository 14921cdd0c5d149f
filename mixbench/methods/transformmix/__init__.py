"""TransformMix: a module that moves and masks images is searched once, then used as it is."""
