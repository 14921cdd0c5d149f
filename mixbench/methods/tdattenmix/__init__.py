"""TdAttenMix, and the maps of attention that its windows and labels come from."""
