"""What a run says of all its rows is what they say one by one, of lists as of columns that were read."""

import io
import random

import pytest

from recordings import kvmr_of_items
from replay.events import (
    GuestWrite,
    HotEvent,
    ShadowPageAccount,
    ShadowPageUnaccount,
    WriteTrackAdd,
    WriteTrackQuery,
    WriteTrackRemove,
)
from replay.recording import KvmrReader
from replay.runs import HOT_CLASSES, Run, run_of
from replay.units import Gfn

MORE, LESS = (WriteTrackAdd, ShadowPageAccount), (WriteTrackRemove, ShadowPageUnaccount)
SHADOW = (ShadowPageAccount, ShadowPageUnaccount)


def some_rows(rng: random.Random, rows: int) -> list[HotEvent]:
    """Return hot events of a few kinds, VMs, levels and results."""
    classes = rng.sample((*MORE, *LESS, WriteTrackQuery, GuestWrite), rng.choice((1, 2, 6)))
    levels, vms = rng.choice(((0,), (2,), (2, 3, 5), (0, 1, 2, 255))), rng.sample(range(300), rng.choice((1, 3)))
    results = rng.choice(((None,), (0,), (-22,), (None, 0, -22, 1)))
    return [
        rng.choice(classes)(vm=rng.choice(vms), gfn=Gfn(row), level=rng.choice(levels), ret=rng.choice(results))
        for row in range(rows)
    ]


class TestCounts:
    """Kinds, VMs, changes of what is write-tracked, results."""

    @pytest.mark.parametrize("seed", range(40))
    def test_as_one_by_one(self, seed: int) -> None:
        """Each is what the rows give, and the same when asked again."""
        rng = random.Random(seed)
        events = some_rows(rng, rng.choice((1, 2, 7, 100, 600)))
        (read,) = KvmrReader(io.BytesIO(kvmr_of_items([run_of(events)]))).items()
        assert isinstance(read, Run)
        kinds = {code: count for code, cls in HOT_CLASSES.items() if (count := sum(type(event) is cls for event in events))}
        deep = [event for event in events if event.level > 1 or not isinstance(event, SHADOW)]
        changes = sum(isinstance(event, MORE) for event in deep), sum(isinstance(event, LESS) for event in deep)
        results = {row: event.ret for row, event in enumerate(events) if event.ret}
        for run in (run_of(events), read) * 2:
            assert run.kinds() == dict(sorted(kinds.items()))
            assert list(run.kinds()) == sorted(kinds)
            assert run.vms() == tuple(sorted({event.vm for event in events}))
            assert run.changes() == changes
            assert run.recorded() == (sum(event.ret is not None for event in events), results)
