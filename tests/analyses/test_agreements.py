"""Promises of replay.analyses.agreements: places where the lanes might differ and do not, each with the case beside it."""

from typing import Any

import pytest
from comparisons import REGISTER, ROOT, agreements_of
from lane_samples import CREATE, machine, slot

from replay.analyses.catalogue import AGREEMENTS
from replay.events import Event, NotifierRegister, NotifierUnregister, WriteTrackAdd, WriteTrackQuery, WriteTrackRemove
from replay.units import AsId, Gfn

UNREGISTER = NotifierUnregister(vm=0)
ADD, REMOVE = WriteTrackAdd(vm=0, gfn=Gfn(1), ret=0), WriteTrackRemove(vm=0, gfn=Gfn(1), ret=0)
QUERY = WriteTrackQuery(vm=0, gfn=Gfn(1))
SMM_QUERY = WriteTrackQuery(vm=0, gfn=Gfn(1), as_id=AsId(1))
MOVED = slot(base=0x800, ret=0)

CASES: list[tuple[str, list[Event], dict[str, tuple[int, int | None]]]] = [
    ("D3", [CREATE, REGISTER, slot(), slot(1)], {"D3": (2, 2)}),
    ("D3 not before", [CREATE, slot(), REGISTER], {}),
    ("D4", [CREATE, REGISTER, UNREGISTER, slot()], {"D4": (1, 3)}),
    ("D3 with another node left", [CREATE, REGISTER, NotifierRegister(vm=0, node=1, ret=0), UNREGISTER, slot()], {"D3": (1, 4)}),
    ("D6", [CREATE, slot(), REGISTER, ROOT], {"D6": (1, 3)}),
    ("D6 once", [CREATE, slot(), REGISTER, ROOT, ROOT], {"D6": (1, 3)}),
    ("D6 not after a root", [CREATE, slot(), ROOT, REGISTER, ROOT], {}),
    ("D13", [CREATE, slot(), REGISTER, ADD, UNREGISTER, REMOVE], {"D13": (1, 5)}),
    ("D13 not while registered", [CREATE, slot(), REGISTER, ADD, REMOVE], {}),
    ("D15", [CREATE, slot(), REGISTER, ADD, UNREGISTER, MOVED], {"D15": (1, 5)}),
    ("D15 not without counts", [CREATE, slot(), REGISTER, ADD, REMOVE, UNREGISTER, MOVED], {}),
    ("D15 not for another slot", [CREATE, slot(), slot(1), REGISTER, ADD, UNREGISTER, slot(1, base=0x900)], {}),
    ("D18", [CREATE, slot(), slot(as_id=1), REGISTER, REGISTER], {"D18": (1, 3)}),
    ("D18 not with one", [CREATE, slot(as_id=1), REGISTER], {}),
    ("D20", [CREATE, slot(), slot(flags=1), slot()], {"D20": (2, 2)}),
    ("D21", [CREATE, slot(flags=2), slot(flags=0, ret=-22)], {"D21": (1, 1)}),
    ("D22", [CREATE, slot(), QUERY], {"D22": (1, 2)}),
    ("D22 not after a root", [CREATE, slot(), ROOT, QUERY], {}),
    ("D23", [CREATE, slot(), NotifierRegister(vm=0, foreign_mm=True, ret=-3)], {"D23": (1, 2)}),
    ("D34", [CREATE, ROOT, slot()], {"D34": (1, 2)}),
    ("D35", [CREATE, slot(), slot(as_id=1), REGISTER, ADD, SMM_QUERY], {"D18": (1, 3), "D35": (1, 5)}),
    ("D35 not of an untracked gfn", [CREATE, slot(), slot(as_id=1), REGISTER, SMM_QUERY], {"D18": (1, 3)}),
]


class TestNoted:
    """Each row is noted where it happens, and not beside it."""

    @pytest.mark.parametrize(("events", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
    def test_case(self, events: list[Event], expected: dict[str, tuple[int, int | None]]) -> None:
        """The rows that are noted are exactly these, so often, first there."""
        assert agreements_of(events) == expected

    @pytest.mark.parametrize(
        ("facts", "row"), [({"tdp": False, "tdp_mmu": False}, "D26"), ({"config_external_write_tracking": False}, "D27")]
    )
    def test_of_the_machine(self, facts: dict[str, Any], row: str) -> None:
        """D26 and D27 hold for the whole recording, when all lanes are such machines."""
        assert agreements_of([CREATE, slot()], recorded=machine(**facts)) == {row: (1, None)}
        assert agreements_of([CREATE, slot()], ["eager", "on-demand@tdp=0", "on-demand@config=n"]) == {}

    def test_not_where_results_differ(self) -> None:
        """Where one lane fails there is no agreement."""
        events = [CREATE, slot(), slot(1, base=0x100), NotifierRegister(vm=0), slot(base=0x800)]
        assert agreements_of(events, ["eager-5.16", "on-demand"]) == {}
        assert agreements_of([*events, slot(2)], ["eager-5.16", "on-demand"]) == {"D3": (1, 5)}

    def test_every_row_has_a_test(self) -> None:
        """No row of AGREEMENTS goes unseen: here, or with the overlapping calls."""
        seen = {row for _name, _events, expected in CASES for row in expected}
        assert seen | {"D26", "D27", "D25", "D36", "H1'", "H3", "H4"} == set(AGREEMENTS)
