"""`python -m pmagic` is the program `pmagic`."""

from pmagic.cli.app import main

main()
