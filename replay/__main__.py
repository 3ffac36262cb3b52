"""Run the command line as `python -m replay`."""

from replay.cli.program import program

program()
