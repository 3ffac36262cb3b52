"""Be the face on the command line: parse arguments, choose a verb, print, and say the exit status."""

from replay.cli.entry import main

__all__ = ["main"]
