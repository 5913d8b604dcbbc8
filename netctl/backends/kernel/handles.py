"""Handles of the qdiscs and classes that are made here; all others are somebody else's."""

BANDS, NETEM, QUEUE, METER = 0xA1F0_0000, 0xA1F1_0000, 0xA1F2_0000, 0xA1F3_0000
"""Handles of what is made here: what bears another is somebody else's and is never touched."""
CLASS = METER | 1
SHARED = METER | 2
FIRST_CLASS, FIRST_NETEM, FIRST_QUEUE = METER | 0x10, 0xA400_0000, 0xA500_0000
"""Of the classes that traffic is sorted into; one more of each for the next."""
NEXT_QDISC = 0x0001_0000
ROOTS = (BANDS, METER, NETEM)
TC_H_ROOT = 0xFFFFFFFF
