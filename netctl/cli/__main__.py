"""`python -m netctl.cli`."""

from netctl.cli import main

main()
