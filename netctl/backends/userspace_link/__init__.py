"""A link in user space: packets are read from one port, held, and written to the other."""
