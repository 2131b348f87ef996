"""`python -m mho` is `mho`."""

from mho.cli import main

main(prog_name="mho")
