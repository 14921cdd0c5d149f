"""Files of images and arrays: found, fetched, checked, decoded and kept."""
