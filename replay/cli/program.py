"""Be the whole process: `python -m replay`, and the script of an installed copy."""

import gc
import sys
from typing import Final

from replay.cli.entry import main

YOUNG_MOST: Final = 100_000
"""New objects after which cycles are looked for. Importing makes twice as many that stay, and at 700, which is Python's own, that
look is a tenth of a small job; more than this many cycles at once are some megabytes."""


def program() -> None:
    """Run the command line and end the process with its exit status."""
    gc.set_threshold(YOUNG_MOST, 10, 10)
    status = main()
    gc.freeze()  # or the interpreter looks for cycles once more before it ends: as long as a small job takes
    sys.exit(status)
