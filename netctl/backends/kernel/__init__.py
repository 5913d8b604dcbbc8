"""The kernel's traffic control by netlink: messages, queueing disciplines, and the tree of a direction."""
