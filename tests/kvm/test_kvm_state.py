"""The state as a value: complete, canonical, the same on every machine."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from lane import EAGER_NEW, LAZY, NAMES, Lane, account, add

from replay.events import AllocFail, MemoryLimit, VmCreate
from replay.kvm.state import VM_FIELDS, digest_of, slot_state, state_of, structure_digest_of, structure_of
from replay.kvm.vm import Vm

Change = Callable[[Lane], object]


def lane() -> Lane:
    """Return a lane that has something of everything."""
    made = Lane(tdp=False)
    made.set(1, flags=1)
    made.set(0, as_id=1)
    made.set(144)
    made.set(0)
    made.register(3)
    made.fail("slot", nth=9)
    made.hot(account(16), add(17), add(17))
    return made


class TestStateOf:
    """Everything that decides later answers is in the value."""

    def test_plain(self) -> None:
        """Only dicts with word keys, lists, ints, words, booleans and nothing: it survives JSON unchanged."""
        state = state_of(lane().machine)
        assert json.loads(json.dumps(state)) == state

    def test_top(self) -> None:
        """Policy, profile, VMs, those gone, memory, log."""
        made = lane()
        made.do(VmCreate(vm=1, ret=0))
        made.do(VmCreate(vm=5, ret=0))
        state = state_of(made.machine)
        assert sorted(state) == ["allocator", "gone", "log", "policy", "profile", "vms"]
        assert [vm["number"] for vm in state["vms"]] == [0, 1, 5]
        assert state["allocator"]["injections"] == [{"vm": None, "site": "slot", "nth": 9, "count": 1, "seen": 0}]
        assert (state["policy"], state["profile"]["tdp"], state["gone"], state["log"]) == (LAZY, "n", [], {})

    def test_vm(self) -> None:
        """Each field of a VM is in its value, by its own name."""
        vm = state_of(lane().machine)["vms"][0]
        kept = {field.name for field in attrs.fields(Vm)} - {"policy", "profile", "allocator", "log", "check_facts", "known"}
        assert set(vm) == kept
        assert set(VM_FIELDS) == kept - {"spaces", "nodes", "external_adds"}
        assert (vm["nodes"], vm["external_adds"], vm["users_count"], vm["nr_memslot_pages"]) == ([3], [[17, 2]], 2, 16)
        assert (vm["external_write_tracking_enabled"], vm["indirect_shadow_pages"]) == (True, 1)

    def test_slots_in_walk_order(self) -> None:
        """Slots stand in the kernel's order, of the active set; the order of the other one is told."""
        made = lane()
        assert made.set(144, base=5000).ret == -22, "a failed move changes one of the orders"
        spaces = state_of(made.machine)["vms"][0]["spaces"]
        assert [[slot["id"] for slot in space["slots"]] for space in spaces] == [[0, 144, 1], [0]]
        assert [space["inactive_order"] for space in spaces] == [[144, 0, 1], [0]]
        assert [space["generation"] for space in spaces] == made.generations()

    def test_slot(self) -> None:
        """A slot has its fields, its arrays with bytes of three kinds, and counters that are not zero, sorted."""
        made = lane()
        state = slot_state(made.slot(1))
        assert {name: state[name] for name in ("as_id", "id", "base_gfn", "npages", "flags", "born")} == {
            "as_id": 0,
            "id": 1,
            "base_gfn": 16,
            "npages": 4,
            "flags": 1,
            "born": 1,
        }
        assert state["counts"] == [[0, 1], [1, 2]]
        assert state["gfn_write_track"] == {
            "number": 8,
            "site": "kvm_page_track_create_memslot",
            "event": 1,
            "nominal_bytes": 8,
            "charged_bytes": 4096,
            "real_bytes": 4104,
        }
        assert [len(state["rmap"]), len(state["lpage_info"])] == [3, 2]
        assert state["slot"]["nominal_bytes"] == 280

    def test_missing_arrays(self) -> None:
        """An array that is not there is nothing."""
        made = Lane()
        made.set(1)
        state = slot_state(made.slot(1))
        assert (state["gfn_write_track"], state["dirty_bitmap"], state["rmap"]) == (None, None, [None] * 3)


def failed_deletion(made: Lane) -> None:
    """Let a deletion fail before anything was published, and put the injections back as they were."""
    made.fail("kvm_set_memslot(invalid)")
    assert made.delete(1).ret == -12
    made.heal()
    made.fail("slot", nth=9)


CHANGES: dict[str, Change] = {
    "a slot": lambda made: made.set(2),
    "a deletion": lambda made: made.delete(1),
    "flags": lambda made: made.set(1),
    "a counter": lambda made: made.hot(account(18)),
    "a level 1 page": lambda made: made.hot(account(18, 1)),
    "a node": lambda made: made.register(4),
    "a shadow root": lambda made: made.root(),
    "a failed deletion": failed_deletion,
    "a failed move": lambda made: made.set(1, flags=1, base=9999),
    "an injection": lambda made: made.do(AllocFail(site="rmap")),
    "a limit": lambda made: made.do(MemoryLimit(limit_pages=10_000)),
    "a vCPU": lambda made: made.vcpu(),
    "an irqchip": lambda made: made.irqchip(),
    "the end": lambda made: made.destroy(),
}
SAME_STRUCTURE = {
    "a counter",
    "a level 1 page",
    "a failed deletion",
    "an injection",
    "a limit",
    "a vCPU",
    "an irqchip",
    "the end",
}
"""What `structure_of()` does not tell apart; the closed fd of a VM that a node keeps alive is one of them."""


class TestDigest:
    """Equal states have equal digests, others have not."""

    @pytest.mark.parametrize("policy", NAMES)
    def test_equal(self, policy: str) -> None:
        """Two lanes with the same events have the same digest; 32 hex digits."""
        digests = set()
        for _ in range(2):
            made = Lane(policy)
            made.set(1)
            made.set(2)
            digests.add(digest_of(made.machine))
        assert len(digests) == 1
        assert len(digests.pop()) == 32

    @pytest.mark.parametrize("name", CHANGES)
    def test_every_change_shows(self, name: str) -> None:
        """Each kind of change changes the digest; the digest of the structure where the structure changed."""
        made = lane()
        before, structure = digest_of(made.machine), structure_digest_of(made.machine)
        CHANGES[name](made)
        assert (digest_of(made.machine) == before) is (name == "a failed deletion"), "which changes nothing but what happened"
        assert (structure_digest_of(made.machine) == structure) is (name in SAME_STRUCTURE)

    def test_order_of_dicts_does_not_matter(self) -> None:
        """Counters that came in another order give the same digest."""
        digests = []
        for gfns in ((16, 17, 18), (18, 16, 17)):
            made = Lane(tdp=False)
            made.set(1)
            made.hot(*[account(gfn) for gfn in gfns])
            digests.append(digest_of(made.machine))
        assert digests[0] == digests[1]

    def test_two_lanes_share_a_structure(self) -> None:
        """Once all arrays are there, eager and on-demand have the same structure, though not the same state."""
        machines = []
        for policy in (EAGER_NEW, LAZY):
            made = Lane(policy, tdp=False)
            made.set(1)
            made.root()
            machines.append(made.machine)
        assert structure_of(machines[0]) == structure_of(machines[1])
        assert digest_of(machines[0]) != digest_of(machines[1])

    def test_hash_seed(self) -> None:
        """Another process with another hash seed finds the same digests."""
        code = "import test_kvm_state as t; m = t.lane().machine; print(t.digest_of(m), t.structure_digest_of(m))"
        here = Path(__file__).parent
        expected = f"{digest_of(lane().machine)} {structure_digest_of(lane().machine)}\n"
        for seed in ("0", "1", "77"):
            env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent.parent)])}
            command = [sys.executable, "-c", code]
            assert subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout == expected
