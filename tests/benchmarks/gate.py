"""Print how fast a two-lane comparison is against merely decoding the same events as rows, on the pd-like profile.

`python tests/benchmarks/gate.py` prints the ratio first, 1.0 is as fast as the row decoder, and what it is made of. CPU time of
this process, rounds interleaved, the best of each, so that neighbours disturb both alike; the events are those of
`kvm-replay generate shadow`, made after the largest capture.
"""

import sys
import tempfile
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from measure import Case, comparison, in_turn, row_decoder, write_items

from replay.generate import generated, profile_named

EVENTS: Final = 250_000
ROUNDS: Final = 15


def measured() -> tuple[Case, Case]:
    """Return the row decoder and the comparison, from the file to the report, with the best of all rounds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pd-like.kvmr"
        stream = generated(profile_named("shadow"), EVENTS, 1)
        hot = write_items(path, stream.items(), stream.header)
        rows, ours = row_decoder(path), comparison("compare", path, hot, ("eager", "on-demand"))
        in_turn([rows, ours], ROUNDS)
        return rows, ours


if __name__ == "__main__":
    rows, ours = measured()
    print(f"{rows.best_ns / ours.best_ns:.2f} rows {rows.best_ns:.0f} ns, compare {ours.best_ns:.0f} ns, best of {ROUNDS}")
