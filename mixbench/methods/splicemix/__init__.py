"""SpliceMix and SpliceMix-CL: grids of shrunken images, appended to the batch."""
