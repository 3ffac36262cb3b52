"""Print what docs/generate.md takes from captures: `python tests/generate/rates.py RECORDING...`, from the root of the project.

For each recording: VMs, memslot calls, most memslots at once, hot events, the share of each kind and level, gfns that are
touched, events between two structural ones, and the gaps between neighbours at 16 quantiles, hot and structural apart.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from replay.recording import open_recording
from replay.runs import HOT_CLASSES, Run

QUANTILES = 16


def quantiles(numbers: Sequence[int]) -> list[int]:
    """Return the middle of each sixteenth of some numbers, by nearest rank."""
    ordered = sorted(numbers)
    return [ordered[(2 * place + 1) * len(ordered) // (2 * QUANTILES)] for place in range(QUANTILES)] if ordered else []


class Rates:
    """What one recording holds of rates and mixes."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.levels: Counter[int] = Counter()
        self.gfns: set[tuple[int, int]] = set()
        self.stretches: list[int] = []
        self.gaps: dict[str, list[int]] = {"hot": [], "structural": []}
        self._stretch = 0
        self._last: int | None = None

    def read(self, path: str) -> None:
        """Read a recording."""
        for item in open_recording(path).items():
            if isinstance(item, Run):
                self._run(item)
            else:
                self.kinds[item.KIND] += 1
                self._gap("structural", item.time_ns)
                self.stretches.append(self._stretch)
                self._stretch = 0

    def _run(self, run: Run) -> None:
        self._stretch += len(run)
        for kind, count in run.kinds().items():
            self.kinds[HOT_CLASSES[kind].KIND] += count
        self.levels.update(run.level)
        self.gfns.update(zip(run.vm, run.gfn, strict=True))
        for time_ns in run.time_ns:
            self._gap("hot", time_ns)

    def _gap(self, what: str, time_ns: int | None) -> None:
        if time_ns is None:
            return
        if self._last is not None:
            self.gaps[what].append(max(0, time_ns - self._last))
        self._last = time_ns

    def lines(self) -> list[str]:
        """Return the findings."""
        shares = ", ".join(f"{kind} {count}" for kind, count in sorted(self.kinds.items()))
        levels = ", ".join(f"level {level} {count}" for level, count in sorted(self.levels.items()))
        found = [f"  {shares}", f"  {levels}; {len(self.gfns)} gfns"]
        found.append(f"  hot events between structural ones: {quantiles([run for run in self.stretches if run])}")
        found.extend(f"  gaps of {what} events, ns: {quantiles(gaps)}" for what, gaps in self.gaps.items())
        return found


if __name__ == "__main__":
    for name in sys.argv[1:]:
        rates = Rates()
        rates.read(name)
        print(name, *rates.lines(), sep="\n")
