"""C code that gives, bit by bit, what torch gives, where torch is slow on small images."""
