"""Keep memslots for the slow model: two real sets an address space, INVALID copies in them, every bucket a list.

Written from the kernel's rules alone, with dicts and loops; nothing of replay.kvm is used.
"""

from collections import defaultdict
from typing import Any

import slow_region
from slow_memory import SlowMemory

from replay.events import MemslotSet

Dict = dict[str, Any]

COUNT_MAX = 65535
"""Largest value of a counter; tests lower it, to meet overflow in short streams."""


def bucket(slot_id: int) -> int:
    """Hash an id to 7 bits with the 32-bit golden ratio."""
    return (slot_id * 0x61C88647 % 2**32) >> 25


class SlowSlots:
    """The memslot half of the slow model. policy: its name; facts: the profile as a dict of plain values."""

    def __init__(self, policy: str, facts: Dict) -> None:
        assert policy in {"always", "eager-5.16", "eager-6.6", "v1", "v2", "on-demand", "ideal"}
        self.policy, self.facts = policy, facts
        self.old_api = policy in {"always", "eager-5.16"}
        self.memory = SlowMemory(facts["total_ram_pages"], 280 if facts["release"] >= (6, 8, 0) else 264)
        self.log: list[str] = []

    def track(self, vm: Dict, slot: Dict, gfn: int, delta: int) -> None:
        """Count one gfn of a slot up or down; a counter never leaves its 16 bits."""
        if not self.enabled(vm):
            if self.old_api:
                self.log.append("WARN: write tracking is not enabled")
            else:
                self.log.append("KVM_BUG_ON: write tracking is not enabled")
                vm["bugged"] = True
            return
        if self.policy == "ideal":
            if delta > 0 and slot["wt"] is None:
                slot["wt"] = self.memory.free_of_charge("first add (ideal)", "gfn_write_track", 2 * slot["npages"])
        elif slot["wt"] is None:
            # Only v1 gets here: its opt-out does not see the slots of address space 1.
            assert (self.policy, slot["as"]) == ("v1", 1), "enabled without an array"
            self.log.append("gfn_write_track is NULL")
            return
        self.count(slot, gfn, delta)
        self.disallow(vm, slot, gfn, delta)

    def disallow(self, vm: Dict, slot: Dict, gfn: int, delta: int) -> None:
        """Move the number of reasons against the large pages that hold a gfn; the first one below zero is warned of."""
        for size in (512, 512 * 512):
            reasons = slot["disallow"][size]
            place = gfn // size - slot["base"] // size
            reasons[place] += delta
            if reasons[place] < 0 and not vm["lpage_warned"]:
                vm["lpage_warned"] = True
                self.log.append("WARN: disallow_lpage below 0")

    def first_disallow(self, slot: Dict) -> None:
        """Forbid the large pages that reach out of the slot, or all when guest and host addresses are not aligned alike."""
        for size in (512, 512 * 512):
            count = self.lpages(slot, 2 if size == 512 else 3)
            reasons = defaultdict(int)
            if slot["base"] % size:
                reasons[0] = 1
            if (slot["base"] + slot["npages"]) % size:
                reasons[count - 1] = 1
            if slot["base"] % size != slot["hva"] // 4096 % size:
                reasons = defaultdict(lambda: 1)
            slot["disallow"][size] = reasons

    def count(self, slot: Dict, gfn: int, delta: int) -> None:
        """Count one gfn up or down."""
        value = slot["counts"].get(gfn, 0) + delta
        if value < 0:
            self.log.append("WARN: write-track count below 0")
        elif value > COUNT_MAX:
            self.log.append("WARN: write-track count above 65535")
        else:
            slot["counts"][gfn] = value

    # --- what the policy says

    def enabled(self, vm: Dict) -> bool:
        """Evaluate "write tracking is enabled" of the policy."""
        config = self.facts["config_external_write_tracking"]
        if self.policy == "always":
            return True
        if self.policy == "v2":
            return bool(vm["ext"] or not self.facts["tdp"])
        if self.policy in {"on-demand", "ideal"}:
            return bool((config and vm["ext"]) or vm["shadow"] or not self.facts["tdp"])
        if self.policy == "v1":
            config = config and not vm["disabled"]
        return bool(config or not self.facts["tdp"] or vm["shadow"])

    def has_rmaps(self, vm: Dict) -> bool:
        """Tell whether slots have rmaps: without the TDP MMU, or once shadow paging was used."""
        tdp_mmu = self.facts["tdp"] and self.facts["tdp_mmu"]
        return not tdp_mmu or vm["shadow"]

    def no_external_api(self) -> bool:
        """Tell whether the functions for external users are compiled out: from the 6.6 API on without the option."""
        return not self.old_api and not self.facts["config_external_write_tracking"]

    # --- slot sets

    def walk(self, vm: Dict, as_id: int) -> list[Dict]:
        """List the slots of the active set, bucket by bucket, newest first."""
        space = vm["spaces"][as_id]
        return [slot for chain in space["sets"][space["active"]] if chain for slot in chain]

    def find(self, vm: Dict, as_id: int, slot_id: int) -> Dict | None:
        """Look a slot up by id."""
        return next((slot for slot in self.walk(vm, as_id) if slot["id"] == slot_id), None)

    def find_gfn(self, vm: Dict, as_id: int, gfn: int) -> Dict | None:
        """Look a slot up by gfn."""
        return next((s for s in self.walk(vm, as_id) if s["base"] <= gfn < s["base"] + s["npages"]), None)

    def swap(self, vm: Dict, as_id: int) -> None:
        """Publish the inactive set; the generation grows by the number of address spaces."""
        space = vm["spaces"][as_id]
        space["active"] = 1 - space["active"]
        space["gen"] += vm["nas"]

    def replace(self, vm: Dict, as_id: int, old: Dict | None, new: Dict | None) -> None:
        """Replace one slot object by another in the inactive set; the new one goes to the head of its bucket."""
        space = vm["spaces"][as_id]
        chains = space["sets"][1 - space["active"]]
        if old is not None:
            chain = chains[bucket(old["id"])]
            chain[:] = [slot for slot in chain if slot["id"] != old["id"]]
        if new is not None:
            chains[bucket(new["id"])].insert(0, new)

    # --- memslot requests

    def set_user_region(self, vm: Dict, event: MemslotSet) -> int:
        """Carry out an ioctl: the checks of the entry, then the request."""
        early = slow_region.entry_errno(vm, self.facts, event)
        if early:
            return -early
        return self.set_region(vm, event.slot, event.flags, event.guest_phys_addr, event.memory_size, event.userspace_addr, event)

    def set_region(self, vm: Dict, slot: int, flags: int, gpa: int, size: int, hva: int, event: MemslotSet | None) -> int:
        """Check and carry out a request; event None: an internal slot."""
        errno = slow_region.request_errno(vm, self.facts, slot, flags, gpa, size, hva, event)
        if errno:
            return -errno
        as_id, slot_id = slot >> 16, slot & 0xFFFF
        old = self.find(vm, as_id, slot_id)
        others = [s for s in self.walk(vm, as_id) if s["id"] != slot_id]
        change = slow_region.change_of(vm, self.facts, old, others, flags, gpa >> 12, size >> 12, hva)
        if isinstance(change, int):
            return -change
        if change == "nothing":
            return 0
        if change == "delete":
            return self.set_memslot(vm, as_id, old, None, change)
        made = self.memory.kzalloc(vm["number"], "kvm_set_memory_region")
        if made is None:
            return -12
        new = {"as": as_id, "id": slot_id, "base": gpa >> 12, "npages": size >> 12, "flags": flags, "hva": hva, "object": made}
        new |= {"dirty": None, "rmap": [None] * 3, "lpage": [None] * 2, "wt": None, "counts": {}, "disallow": {}}
        if flags & 4 and event is not None and event.ret is not None and event.ret < 0 and event.ret != -12:
            ret = event.ret
        else:
            ret = self.set_memslot(vm, as_id, old, new, change)
        if ret:
            self.memory.free(made)
        return ret

    def set_memslot(self, vm: Dict, as_id: int, old: Dict | None, new: Dict | None, change: str) -> int:
        """Publish a change: with an INVALID copy first for delete and move."""
        invalid: Dict | None = None
        if change in {"delete", "move"}:
            assert old is not None
            copy = self.memory.kzalloc(vm["number"], "kvm_set_memslot(invalid)")
            if copy is None:
                return -12
            invalid = {**old, "object": copy, "invalid": True}
            self.replace(vm, as_id, old, invalid)
            self.swap(vm, as_id)
            self.flush_slot(vm, old)
        ret = self.prepare(vm, old, new, change)
        if ret:
            if invalid is not None:
                self.swap(vm, as_id)
                self.replace(vm, as_id, invalid, old)
                self.memory.free(invalid["object"])
            return ret
        self.replace(vm, as_id, old, new)
        self.swap(vm, as_id)
        self.replace(vm, as_id, invalid or old, new)
        if invalid is not None:
            self.memory.free(invalid["object"])
        self.commit(vm, old, new, change)
        return 0

    def flush_slot(self, vm: Dict, slot: Dict) -> None:
        """Let drivers of the old API remove what they track in a slot, as often as they had added it."""
        if not self.old_api or not vm["nodes"]:
            return
        for gfn in sorted(vm["table"]):
            if slot["base"] <= gfn < slot["base"] + slot["npages"]:
                for _ in range(vm["table"].pop(gfn)):
                    self.track(vm, slot, gfn, -1)

    def prepare(self, vm: Dict, old: Dict | None, new: Dict | None, change: str) -> int:
        """Allocate the dirty bitmap, then the arch arrays; undo on failure."""
        if new is None:
            return 0
        fresh = None
        if new["flags"] & 1:
            if old is not None and old["dirty"] is not None:
                new["dirty"] = old["dirty"]
            else:
                longs = (new["npages"] + 63) // 64
                fresh = self.memory.vcalloc(vm["number"], "kvm_set_memslot", "dirty_bitmap", 2 * 8 * longs)
                if fresh is None:
                    return -12
                new["dirty"] = fresh
        ret = self.arch_prepare(vm, old, new, change)
        if ret:
            self.memory.free(fresh)
        return ret

    def arch_prepare(self, vm: Dict, old: Dict | None, new: Dict, change: str) -> int:
        """Share the arrays on a change of flags, allocate them all on create and move."""
        if change == "flags":
            assert old is not None
            for name in ("rmap", "lpage", "wt", "counts", "disallow"):
                new[name] = old[name]
            return 0
        if change == "move" and not self.old_api and vm["nodes"]:
            return -22
        bits = self.facts["max_phys_bits"] if self.facts["tdp"] else 52
        if new["base"] + new["npages"] - 1 > 2 ** (bits - 12) - 1:
            return -22
        return 0 if self.metadata(vm, new) else -12

    def metadata(self, vm: Dict, slot: Dict) -> bool:
        """Allocate rmaps if needed, lpage_info always, write tracking if enabled; all or nothing."""
        if self.has_rmaps(vm) and not self.alloc_rmaps(vm, slot):
            return False
        good = True
        for level in (2, 3):
            if good:
                size = 4 * self.lpages(slot, level)
                slot["lpage"][level - 2] = self.memory.vcalloc(vm["number"], "kvm_arch_prepare_memory_region", "lpage_info", size)
                good = slot["lpage"][level - 2] is not None
        self.first_disallow(slot)
        if good and self.enabled(vm) and self.policy != "ideal":
            good = self.alloc_tracking(vm, slot, "kvm_page_track_create_memslot")
        if not good:
            self.free_arrays(slot)
        return good

    def lpages(self, slot: Dict, level: int) -> int:
        """Count the huge pages of a level that a slot touches."""
        size = 512 ** (level - 1)
        first, last = slot["base"] // size, (slot["base"] + slot["npages"] - 1) // size
        return int(last - first + 1)

    def alloc_rmaps(self, vm: Dict, slot: Dict) -> bool:
        """Allocate the levels that are missing; one that fails takes all with it."""
        for level in (1, 2, 3):
            if slot["rmap"][level - 1] is None:
                size = 8 * self.lpages(slot, level)
                slot["rmap"][level - 1] = self.memory.vcalloc(vm["number"], "memslot_rmap_alloc", "rmap", size)
                if slot["rmap"][level - 1] is None:
                    self.free_rmaps(slot)
                    return False
        return True

    def alloc_tracking(self, vm: Dict, slot: Dict, caller: str) -> bool:
        """Allocate a slot's counters unless they are there."""
        if slot["wt"] is None:
            slot["wt"] = self.memory.vcalloc(vm["number"], caller, "gfn_write_track", 2 * slot["npages"])
        return slot["wt"] is not None

    def free_rmaps(self, slot: Dict) -> None:
        """Free all rmap levels of a slot."""
        for index in range(3):
            self.memory.free(slot["rmap"][index])
            slot["rmap"][index] = None

    def free_arrays(self, slot: Dict) -> None:
        """Free all that hangs on a slot but the bitmap and the object."""
        self.free_rmaps(slot)
        for piece in (*slot["lpage"], slot["wt"]):
            self.memory.free(piece)
        slot["lpage"], slot["wt"], slot["counts"] = [None, None], None, {}

    def commit(self, vm: Dict, old: Dict | None, new: Dict | None, change: str) -> None:
        """Account pages and free what went."""
        if old is None:
            assert new is not None
            vm["pages"] += new["npages"]
            return
        if change == "delete":
            vm["pages"] -= old["npages"]
            inside = [gfn for gfn in vm["table"] if old["base"] <= gfn < old["base"] + old["npages"]]
            for gfn in inside:
                del vm["table"][gfn]
        if change in {"delete", "move"}:
            self.free_arrays(old)
        if new is None or new["dirty"] is None:
            self.memory.free(old["dirty"])
        self.memory.free(old["object"])
