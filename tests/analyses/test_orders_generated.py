"""Promises of the search for an order, on concurrent histories that are made by machine, against brute force."""

import os
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from histories import RELEASE, history, spoiled, stream_of, truth

from replay.analyses.check import check
from replay.analyses.check_report import AGREES, CONTRADICTED
from replay.analyses.compare import compare
from replay.engine.lanes import make_lanes
from replay.events import NotifierUnregister
from replay.events.base import VmCall

CHECKED = 300
"""Histories that `check` is asked about, and that brute force goes through."""
COMPARED = 100
MORE = int(os.environ.get("KVM_REPLAY_HISTORIES", "0"))
"""Further histories for both, for the check before a release; some thousands take a minute."""
LANES = (RELEASE, "eager", "v2")
DISAGREES = "the model of the recorded kernel disagrees"


def drawn(seed: int) -> list[VmCall]:
    """Return the history of a seed: 2 to 6 calls of 2 or 3 threads, half of them with one wrong result."""
    rng = random.Random(seed)
    calls = history(rng, rng.randrange(2, 7), rng.randrange(2, 4))
    return spoiled(rng, calls) if rng.random() < 0.5 else calls


def check_agrees(seed: int) -> None:
    """Hold `check` of a history against brute force."""
    calls = drawn(seed)
    if answered(calls):
        real, report = truth(calls), check(stream_of(calls))
        assert report.status() == (AGREES if real.orders else CONTRADICTED), seed
        assert (report.orders is not None and report.orders.order_matters > 0) == real.matters or not real.orders, seed


def compare_agrees(seed: int) -> None:
    """Hold `compare` of a history against brute force."""
    calls = drawn(seed)
    stream = stream_of(calls)
    real, report = truth(calls, LANES), compare(stream, make_lanes(LANES, stream.header.machine), paranoid=True)
    assert any(DISAGREES in doubt.what for doubt in report.uncertainties) == (not real.orders), seed
    assert (report.orders is not None and report.orders.order_matters > 0) == real.matters or not real.orders, seed


def answered(calls: Sequence[VmCall]) -> bool:
    """Tell whether some result can be held against the model; an unregistration has none."""
    return any(call.ret is not None and not isinstance(call, NotifierUnregister) for call in calls)


class TestAgainstBruteForce:
    """Small histories, all of whose orders are replayed from the beginning."""

    def test_check(self) -> None:
        """An order is found exactly when there is one, and it is said to matter exactly when it does; a lot of each is met."""
        met: Counter[str] = Counter()
        for seed in range(CHECKED):
            calls = drawn(seed)
            if not answered(calls):
                continue
            real, report = truth(calls), check(stream_of(calls))
            found = report.orders
            assert report.status() == (AGREES if real.orders else CONTRADICTED), seed
            assert bool(found and found.order_matters) == real.matters or not real.orders, seed
            met["fits"] += bool(real.orders)
            met["matters"] += real.matters
            met["none of a group fits"] += found is not None and found.none_fits > 0
            met["reordered"] += found is not None and found.reordered > 0
            met["recorded order"] += found is not None and found.recorded > 0
            assert found is None or not (found.undecided or found.unjudged or found.doubted), seed
        assert met == {"fits": 163, "matters": 24, "none of a group fits": 58, "reordered": 20, "recorded order": 103}

    def test_more(self) -> None:
        """The same for as many more as the environment asks for, and a third as many for `compare`."""
        for seed in range(CHECKED, CHECKED + MORE):
            check_agrees(seed)
        for seed in range(COMPARED, COMPARED + MORE // 3):
            compare_agrees(seed)
        check_agrees(0)
        compare_agrees(0)

    def test_chosen_order_fits(self) -> None:
        """What is replayed is one of the orders that brute force finds, and the recorded one when that fits."""
        chosen = Counter[bool]()
        for seed in range(CHECKED):
            calls = drawn(seed)
            real, found = truth(calls), check(stream_of(calls)).orders
            if not real.orders or found is None or len(found.listed) != 1 or found.groups != 1:
                continue
            (group,) = found.listed
            places = dict(zip(group.events, group.chosen, strict=True))
            order = tuple(places.get(number, number) - 1 for number in range(1, len(calls) + 1))
            assert order in real.orders, seed
            recorded = tuple(range(len(calls)))
            assert (order == recorded) == (recorded in real.orders), seed
            chosen[order == recorded] += 1
        assert chosen == {True: 19, False: 17}

    def test_compare(self) -> None:
        """With several lanes the order matters exactly when it does in one; the recorded kernel's lane decides what fits."""
        met: Counter[str] = Counter()
        for seed in range(COMPARED):
            calls = drawn(seed)
            stream = stream_of(calls)
            real, report = truth(calls, LANES), compare(stream, make_lanes(LANES, stream.header.machine), paranoid=True)
            contradicted = any(DISAGREES in doubt.what for doubt in report.uncertainties)
            assert contradicted == (not real.orders), seed
            matters = report.orders is not None and report.orders.order_matters > 0
            assert matters == real.matters or not real.orders, seed
            met["matters"] += matters
            met["contradicted"] += contradicted
        assert met == {"matters": 11, "contradicted": 43}


class TestLongHistories:
    """Histories of many calls, each of which has an order by the way it was made."""

    @pytest.mark.parametrize(("seed", "groups", "reordered"), [(1, 50, 8), (5, 14, 3), (7, 38, 13), (10, 33, 8)])
    def test_an_order_is_found(self, seed: int, groups: int, reordered: int) -> None:
        """However the recorder wrote the calls down, none contradicts the model."""
        rng = random.Random(seed)
        report = check(stream_of(history(rng, 300, rng.randrange(2, 9))))
        assert report.orders is not None
        assert report.status() == AGREES
        assert (report.orders.groups, report.orders.reordered) == (groups, reordered)
        assert report.orders.none_fits == report.orders.undecided == report.orders.doubted == 0
