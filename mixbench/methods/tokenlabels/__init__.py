"""TL-Align and TransMix: pasted boxes whose label weights the network decides."""
