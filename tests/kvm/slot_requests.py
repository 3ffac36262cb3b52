"""Memslot requests for tests of the checks: good ones, a lane with slots in it, and which rows refuse a request."""

from typing import Any

from lane import LAZY, Lane, P, hva_of

from replay.events import MemslotSet
from replay.kvm.memory_region import CHECKS, DELETE, MOVE, Request, classify

GOOD: dict[str, Any] = {"slot": 9, "guest_phys_addr": 64 * P, "memory_size": 4 * P, "userspace_addr": hva_of(9)}
LIVE: dict[str, Any] = {"slot": 1, "guest_phys_addr": 16 * P, "memory_size": 4 * P, "userspace_addr": hva_of(1)}
MEMFD: dict[str, Any] = {**LIVE, "slot": 2, "guest_phys_addr": 32 * P, "userspace_addr": hva_of(2), "flags": 4, "region2": True}


def lane_for(release: str, state: dict[str, Any]) -> Lane:
    """Return a lane with slots at gfns 16-19 and 48-51, with guest_memfd one at 32-35, and the state that a row needs."""
    lane = Lane(LAZY, release=release, vm_type=state.get("vm_type", 0))
    assert lane.do(MemslotSet(vm=0, **LIVE)).ret == 0
    assert lane.set(3, base=48).ret == 0
    if state.get("vm_type") == 1 and release != "6.1":
        assert lane.do(MemslotSet(vm=0, **MEMFD)).ret == 0
    lane.vm.nr_memslot_pages = state.get("nr_memslot_pages", lane.vm.nr_memslot_pages)
    return lane


def request_of(lane: Lane, fields: dict[str, Any], *, internal: bool = False) -> Request:
    """Return a request, not yet looked up; region2 None: the newest call that the kernel has."""
    newest = {"region2": lane.vm.profile.release.at_least(6, 8)} if fields.get("region2", False) is None else {}
    return Request(lane.vm, **({"flags": 0, "internal": internal} | fields | newest))


def refusing(request: Request) -> list[str]:
    """Return every row on the request's way that refuses it, as if each were alone."""
    stages = ["region"] if request.internal else ["ioctl", "region"]
    if request.as_id < request.vm.nas:
        request.old = request.vm.spaces[request.as_id].by_id(request.id)
        change = classify(request)
        later = {DELETE: ["delete"], "create": ["create", "place"], MOVE: ["change", "place"]}
        stages += later.get(change, ["change"])
    return [row.name for row in CHECKS if row.stage in stages and row.applies(request.release) and row.refuses(request)]
