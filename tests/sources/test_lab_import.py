"""Promises of the importer of slotprobe results: which events each operation becomes."""

import json
from typing import Any

import pytest

from replay.errors import TraceSyntaxError
from replay.events import (
    AllocFail,
    DirtyLogClear,
    DirtyLogGet,
    Event,
    IdentityMapSet,
    Lost,
    MemoryLimit,
    MemslotSet,
    NotifierRegister,
    NotifierUnregister,
    Observe,
    ObservedArea,
    ObservedCount,
    ShadowPageAccount,
    ShadowPageUnaccount,
    ShadowRootAlloc,
    VcpuCreate,
    VmCreate,
    VmDestroy,
    VmEnableCap,
    WriteTrackAdd,
    WriteTrackQuery,
    WriteTrackRemove,
)
from replay.header import Machine
from replay.runs import events_of
from replay.sources.lab import LabImport

CONFIG = 'kvm  kvm_amd npt=1\ntdp_mmu=Y\nnpt=Y\navic=N\n{"n":1,"info":{"new_api":1,"config_external_write_tracking":1}}\n'
SLOT = {"as": 0, "id": 3, "base": 16, "npages": 4, "flags": 1, "wt": 1, "rmap": [1, 1, 1], "lpage": [1, 0], "dirty": 1}
DUMP = {
    "nr_memslot_pages": 4,
    "shadow_root_allocated": 1,
    "external_write_tracking_enabled": None,
    "indirect_shadow_pages": 7,
    "vm_bugged": 0,
    "has_notifier": 1,
    "slots": [{**SLOT, "counts": {"17": 2, "16": 65535}, "nonzero": 2}],
}
PAGE = "kvm_mmu_{call}: sp gen 0 gfn {gfn} l{level} 8-byte q0{direct} wux{invalid} !nxe ad root 0 sync{state}"


def line(op: str, err: str = "0", ret: int | None = None, **more: Any) -> str:
    """Return one line of a result."""
    ret = (0 if err == "0" else -1) if ret is None else ret
    return json.dumps({"n": 1, "op": op, "ret": ret, "err": err, "kvm": {}, "us": 1, **more})


def imported(*lines: str, script: str = "", **facts: Any) -> tuple[list[Event], LabImport]:
    """Return the events of a result, with the importer that gave them."""
    stream = LabImport("case.out", lines, Machine(tdp=facts.pop("tdp", True), **facts), script=script)
    return list(events_of(stream.items())), stream


def told(*lines: str, **facts: Any) -> list[Event]:
    """Return the events of a result without its observations and without the VM "v", which is made first."""
    found, _stream = imported(line("vm v"), *lines, **facts)
    assert isinstance(found[0], VmCreate)
    return [event for event in found[1:] if not isinstance(event, Observe)]


def one(*lines: str, **facts: Any) -> Event:
    """Return the only event of a result."""
    (event,) = told(*lines, **facts)
    return event


def page(call: str, gfn: str, level: int, *, direct: bool = False, invalid: bool = False, state: str = " new") -> str:
    """Return a trace line of a shadow page."""
    words = {"direct": " direct" if direct else "", "invalid": " invalid" if invalid else ""}
    return PAGE.format(call=call, gfn=gfn, level=level, state=state if call == "get_page" else "", **words)


class TestCalls:
    """VM calls become the events of the vocabulary, with the recorded result."""

    @pytest.mark.parametrize(
        ("op", "fields"),
        [
            ("slot v 1:2 3 0x1000 2M 0x100000000", (0x10002, 3, 0x1000, 2 << 20, 1 << 32, False)),
            ("slot v 0 0 1P 511P 4K", (0, 0, 4096, 511 * 4096, 4096, False)),
            ("slot v 7 0 1G-0x1000 1M+4K 0", (7, 0, (1 << 30) - 4096, (1 << 20) + 4096, 0, False)),
            ("slot2 v 1 4 0 1M 0 -1 4096", (1, 4, 0, 1 << 20, 0, True)),
            ("del v 65535:9", (0xFFFF0009, 0, 0, 0, 0, False)),
        ],
    )
    def test_memslot(self, op: str, fields: tuple[int, ...]) -> None:
        """Slots carry their address space, and sizes their suffix."""
        event = one(line(op))
        assert isinstance(event, MemslotSet)
        found = (event.slot, event.flags, event.guest_phys_addr, event.memory_size, event.userspace_addr, event.region2)
        assert found == fields
        assert (event.vm, event.ret, event.inferred) == (0, 0, False)
        assert event.source is not None
        assert event.source.line == 2

    def test_guest_memfd_arguments(self) -> None:
        """REGION2 has its descriptor and offset."""
        event = one(line("slot2 v 1 4 0 1M 0 -1 4096", "EBADF"))
        assert isinstance(event, MemslotSet)
        assert (event.guest_memfd, event.guest_memfd_offset, event.ret) == (0xFFFFFFFF, 4096, -9)

    def test_slots_stop_at_the_error(self) -> None:
        """Many slots in one operation are one call each, the last one with the error."""
        events = told(line("slots v 2 8 0 16M 4G", "ENOMEM", made=2))
        assert all(isinstance(event, MemslotSet) for event in events)
        rows = [(e.slot, e.guest_phys_addr >> 24, e.ret) for e in events if isinstance(e, MemslotSet)]
        assert rows == [(2, 0, 0), (3, 1, 0), (4, 2, -12)]

    @pytest.mark.parametrize(
        ("op", "event"),
        [
            ("vcpu v 3", VcpuCreate(vm=0, vcpu_id=3)),
            ("idmap v 0xfffbc000", IdentityMapSet(vm=0, guest_phys_addr=0xFFFBC000)),  # type: ignore[arg-type]
            ("cap v 168 1 2", VmEnableCap(vm=0, cap=168, args=(1, 2))),
            ("cleardirty v 1 64 32", DirtyLogClear(vm=0, slot=1, first_page=64, num_pages=32)),
        ],
    )
    def test_other_call(self, op: str, event: Event) -> None:
        """Other calls have their arguments."""
        found = one(line(op))
        assert type(found) is type(event)
        names = [name for name in ("vcpu_id", "guest_phys_addr", "cap", "args", "slot", "first_page") if hasattr(event, name)]
        assert [getattr(found, name) for name in names] == [getattr(event, name) for name in names]

    def test_a_number_that_is_no_vm(self) -> None:
        """A call on another descriptor is no event, and counted."""
        found, stream = imported(line("slot 99 0 0 0 1M 0", "EBADF"))
        assert [type(event) for event in found] == [Observe]
        assert [(c.severity, c.count) for c in stream.trailer().counters] == [("ignored", 1)]

    def test_foreign_mm(self) -> None:
        """What a forked child does is done in another mm; what a vfork'ed one does is not."""
        child, vfork = told(line("child slot v 1 0 0 1M 0", "EIO"), line("clonevm slot v 1 0 0 1M 0"))
        assert isinstance(child, MemslotSet)
        assert isinstance(vfork, MemslotSet)
        assert (child.foreign_mm, vfork.foreign_mm) == (True, False)

    @pytest.mark.parametrize(
        "op", ["badarg slot v 1 8 0 1M 0", "badarg slot2 v 1 8 0 1M 0", "badmap dirty v 1 64", "badmap cleardirty v 1 0 64"]
    )
    def test_a_bad_pointer(self, op: str) -> None:
        """An argument or a bitmap that can not be read is said, and what was asked for is known all the same."""
        bad, good = one(line(op, "EFAULT")), one(line(op.partition(" ")[2]))
        assert isinstance(bad, MemslotSet | DirtyLogGet | DirtyLogClear)
        assert (bad.slot, bad.fault, bad.ret) == (1, True, -14)
        assert (type(good), getattr(good, "fault", None)) == (type(bad), False)

    def test_fresh(self) -> None:
        """`fresh` is a VM with slot 0, the operation with its result, and the end of the VM; only the operation was recorded."""
        found, _stream = imported(line("fresh slot v 1 0 0 1M 0", "EEXIST"))
        assert [type(event) for event in found] == [VmCreate, MemslotSet, MemslotSet, VmDestroy, Observe]
        assert [event.inferred for event in found] == [True, True, False, True, False]
        assert [getattr(event, "ret", None) for event in found] == [None, None, -17, None, None]

    def test_par(self) -> None:
        """Parallel operations come in the order in which they ended, each with its own result."""
        jobs = [
            {"op": "reg v 0", "ret": 0, "err": "0", "to_us": 9},
            {"op": "slots v 0 2 0 1M 0", "ret": 0, "err": "0", "to_us": 5},
        ]
        areas = {"kvm_page_track_create_memslot": [2, 2, 0, 0]}
        found, stream = imported(line("vm v"), line("par reg v 0 ;; slots v 0 2 0 1M 0", par=jobs, kvm=areas))
        assert [type(event) for event in found[2:]] == [MemslotSet, MemslotSet, NotifierRegister, Observe]
        last = found[-1]
        assert isinstance(last, Observe)
        assert last.areas is None, "who allocated was a matter of luck"
        assert stream.trailer().total("ignored") == 1


class TestLifetime:
    """A VM ends when nothing holds it any more."""

    def test_close(self) -> None:
        """Closing the descriptor ends a VM, and its name is free for another one."""
        events = told(line("close v"), line("vm v"), line("close v"))
        assert [(type(event), getattr(event, "vm", None)) for event in events] == [(VmDestroy, 0), (VmCreate, 1), (VmDestroy, 1)]

    def test_a_vcpu_holds_its_vm(self) -> None:
        """The probe never closes a bare vCPU: its VM does not end."""
        assert [type(event) for event in told(line("vcpu v 0"), line("close v"))] == [VcpuCreate]

    def test_a_failed_vcpu_holds_nothing(self) -> None:
        """A vCPU that was not made does not hold its VM."""
        assert [type(event) for event in told(line("vcpu v 9", "EINVAL"), line("close v"))] == [VcpuCreate, VmDestroy]

    def test_a_notifier_holds_its_vm(self) -> None:
        """The VM ends when the last notifier goes."""
        events = told(line("reg v 0"), line("close v"), line("unreg v 0"))
        assert [type(event) for event in events] == [NotifierRegister, NotifierUnregister, VmDestroy]

    def test_a_failed_vm(self) -> None:
        """A VM that was not made uses up a number, and its name names nothing."""
        found, _stream = imported(line("vm w 7", "EINVAL"), line("vm w"))
        numbers = [(event.vm, event.ret) for event in found if isinstance(event, VmCreate)]
        assert numbers == [(0, -22), (1, 0)]


class TestModule:
    """What the test module says for itself is no event."""

    @pytest.mark.parametrize("err", ["EDOM", "EALREADY", "ENOBUFS", "EMEDIUMTYPE"])
    def test_own_errnos(self, err: str) -> None:
        """Errnos that no KVM function gives."""
        assert told(line("reg v 0", err)) == []

    def test_own_refusal(self) -> None:
        """An ioctl that the module refused."""
        assert told(line("add v 5", "EBADF", wt_ioctl=False)) == []

    def test_no_table(self) -> None:
        """The module drops nothing when a slot is flushed."""
        event = one(line("reg v 3"))
        assert isinstance(event, NotifierRegister)
        assert (event.node, event.table) == (3, False)

    def test_a_childs_own_module(self) -> None:
        """A child that opens the module for itself drops its notifiers when it exits; with the parent's it does not."""
        own = told(line("child reg v 0"))
        assert [(type(event), event.inferred) for event in own] == [(NotifierRegister, False), (NotifierUnregister, True)]
        shared = told(line("dump v", dump=DUMP), line("clonevm reg v 0"))
        assert [type(event) for event in shared] == [NotifierRegister]

    def test_gfns(self) -> None:
        """Adds and removes have their result; many adds are one event each."""
        events = told(line("add v 0x10"), line("rem v 16", "EINVAL"), line("addn v 9 3", done=3))
        rows = [(type(e), e.gfn, e.ret) for e in events if isinstance(e, WriteTrackAdd | WriteTrackRemove)]
        assert rows == [(WriteTrackAdd, 16, 0), (WriteTrackRemove, 16, -22), *[(WriteTrackAdd, 9, 0)] * 3]

    def test_queries(self) -> None:
        """What the kernel says of a gfn has its address space, its answer, or the module's refusal, which is no event."""
        events = told(line("query v 0x10", ret=1), line("query v 1:9"), line("query v 2:9", "EDOM"), line("query w 1", "EBADF"))
        rows = [(e.as_id, e.gfn, e.ret) for e in events if isinstance(e, WriteTrackQuery)]
        assert rows == [(0, 16, 1), (1, 9, 0)]
        assert len(events) == 2

    def test_injection(self) -> None:
        """There is one injection at a time."""
        events = told(line("fail f 2 3"), line("fail g"), line("fail off"))
        rows = [(e.site, e.nth, e.count, e.off) for e in events if isinstance(e, AllocFail)]
        assert rows == [("f", 2, 3, False), ("f", 1, 1, True), ("g", 1, 1, False), ("g", 1, 1, True)]

    def test_cgroup(self) -> None:
        """What may be charged follows from the limit, what the group says it has, and what was seen to be allocated since."""
        areas = {"memslot_rmap_alloc": [1, 6, 0, 0]}
        events = told(line("cgroup g 40K"), line("cgstat g", cg={"current": 8192}), line("mem", kvm=areas), line("cgmax g 64K"))
        assert [event.limit_pages for event in events if isinstance(event, MemoryLimit)] == [10, 8, 8]
        assert isinstance(one(line("cgleave")), MemoryLimit)


class TestGuests:
    """Shadow pages come from tracepoints, as account_shadowed() counts them."""

    def run(self, *trace: str, op: str = "g v nop", **more: Any) -> list[Event]:
        """Return the events of one run of a guest."""
        return told(line("guest v r long", ret=6), line(op, trace=list(trace), **more))[1:]

    def test_first_root_and_pages(self) -> None:
        """A first shadow page brings the root before it; direct and existing pages count nothing."""
        lines = (page("get_page", "40", 4), page("get_page", "41", 1), page("get_page", "0", 3, direct=True))
        events = self.run(*lines, page("get_page", "42", 4, state=" existing"))
        assert [type(event) for event in events] == [ShadowRootAlloc, ShadowPageAccount, ShadowPageAccount]
        assert [(e.gfn, e.level) for e in events if isinstance(e, ShadowPageAccount)] == [(0x40, 4), (0x41, 1)]

    def test_failed_root(self) -> None:
        """KVM_RUN that fails with -ENOMEM while arrays are allocated is a failed root; the next one tries again."""
        rmap = "rmap: (memslot_rmap_alloc+0x4/0xc0 [kvm]) base=0 npages=1"
        lines = (line("guest v r long", ret=6), line("g v nop", "ENOMEM", trace=[rmap]), line("g v nop", trace=[rmap]))
        assert [event.ret for event in told(*lines) if isinstance(event, ShadowRootAlloc)] == [-12, 0]

    def test_zaps(self) -> None:
        """A zapped page counts out once: not when it was invalid already."""
        lines = (page("get_page", "40", 2), page("prepare_zap_page", "40", 2), page("prepare_zap_page", "40", 2, invalid=True))
        assert [type(event) for event in self.run(*lines)] == [ShadowRootAlloc, ShadowPageAccount, ShadowPageUnaccount]

    def test_zaps_come_before_the_slot_goes(self) -> None:
        """Shadow pages that a delete zaps are counted out while the slot is there."""
        events = told(line("del v 0", trace=[page("prepare_zap_page", "1", 3)]))
        assert [type(event) for event in events] == [ShadowPageUnaccount, MemslotSet]

    def test_passthrough_root(self) -> None:
        """A page that looks counted but that no kprobe on the counting function saw is left out, and counted as such."""
        probe = "wt_add: (__kvm_write_track_add_gfn+0x4/0xc0 [kvm]) gfn=64 base=0"
        trace = [probe, page("get_page", "40", 4), page("get_page", "40", 5)]
        found, stream = imported(line("vm v"), line("guest v r long", ret=6), line("g v vmrun 0", trace=trace))
        levels = [(event.level, event.nested) for event in found if isinstance(event, ShadowPageAccount)]
        assert levels == [(4, True)]
        assert "passthrough" in stream.trailer().counters[0].kind

    @pytest.mark.parametrize(
        ("tdp", "mode", "op", "dark"),
        [
            (True, "long", "g v nop", False),
            (True, "long", "g v vmrun 0", True),
            (False, "long", "g v nop", True),
            (False, "real", "g v nop", False),
            (None, "long", "g v nop", True),
        ],
    )
    def test_untraced(self, tdp: bool | None, mode: str, op: str, dark: bool) -> None:
        """A guest that may have shadow pages and ran without tracepoints hides them, once; nothing else is lost."""
        events = told(line(f"guest v r {mode}", ret=6), line(op), line(op), tdp=tdp)
        losses = [event.affects for event in events if isinstance(event, Lost)]
        assert losses == (["shadow_pages"] if dark else [])


class TestObservations:
    """Every operation ends with what the kernel then looked like."""

    def test_state(self) -> None:
        """A dump is read field by field."""
        found, _stream = imported(line("vm v"), line("counts v", dump=DUMP, label="half way"))
        seen = found[-1]
        assert isinstance(seen, Observe)
        assert seen.state is not None
        assert seen.state.slots is not None
        state, slot = seen.state, seen.state.slots[0]
        assert (seen.vm, seen.label, state.nr_memslot_pages, state.indirect_shadow_pages) == (0, "half way", 4, 7)
        assert (state.shadow_root_allocated, state.external_write_tracking_enabled, state.vm_bugged) == (True, None, False)
        assert (slot.as_id, slot.id, slot.base_gfn, slot.npages, slot.flags) == (0, 3, 16, 4, 1)
        assert (slot.gfn_write_track, slot.rmap, slot.lpage_info, slot.dirty_bitmap) == (True, (1, 1, 1), (1, 0), True)
        assert slot.counts == (ObservedCount(16, 65535), ObservedCount(17, 2))

    def test_cut_counters(self) -> None:
        """Counters of which only some were printed are not known."""
        cut = {**DUMP, "slots": [{**SLOT, "counts": {"16": 1}, "nonzero": 65}]}
        found, _stream = imported(line("vm v"), line("counts v", dump=cut))
        seen = found[-1]
        assert isinstance(seen, Observe)
        assert seen.state is not None
        assert seen.state.slots is not None
        assert seen.state.slots[0].counts is None

    def test_areas(self) -> None:
        """Allocations come by site; an operation without any says so."""
        found, _stream = imported(line("vm v", kvm={"kvm_dev_ioctl": [1, 2, 0, 0]}), line("mem"))
        areas = [event.areas for event in found if isinstance(event, Observe)]
        assert areas == [(ObservedArea("kvm_dev_ioctl", 1, 2, 0, 0),), ()]

    def test_named_memory(self) -> None:
        """Memory without a recorded address gets an aligned stand-in, the same one each time, and is counted."""
        lines = (line("ram r 16M 2M"), line("vm v"), line("slot v 0 0 0 1M r"), line("slot v 1 0 1M 1M r+1M"))
        found, stream = imported(*lines)
        first, second = (event.userspace_addr for event in found if isinstance(event, MemslotSet))
        assert second - first == 1 << 20
        assert first % (2 << 20) == 0
        assert [c.count for c in stream.trailer().counters if "stand-in" in c.kind] == [2]

    def test_killed(self) -> None:
        """A probe that was killed is a loss, and the script tells what it was doing."""
        found, stream = imported(line("vm v"), '{"exit":137}', script="vm v\n# rest\nreg v 0   # here\n")
        last = found[-1]
        assert isinstance(last, Lost)
        assert last.what == "the probe was ended with status 137 in operation 'reg v 0'"
        assert stream.trailer().total("lost") == 1
        assert len(stream.warnings()) == 1

    @pytest.mark.parametrize(
        ("end", "what"),
        [
            ('{"fatal":"vmallocinfo","errno":12}', "the probe gave up: vmallocinfo"),
            ('{"crashed":true}', "the kernel died"),
            ('{"exit":139}', "the probe was ended with status 139"),
        ],
    )
    def test_other_ends(self, end: str, what: str) -> None:
        """A probe that gave up and a kernel that died are losses too; the status behind them is another word for it."""
        found, stream = imported(line("vm v"), end)
        assert [event.what for event in found if isinstance(event, Lost)] == [what]
        assert stream.trailer().total("lost") == 1

    def test_a_cut_operation(self) -> None:
        """An operation that was not written to its end is lost, when none follows it."""
        found, stream = imported(line("vm v"), line("close v")[:30], '{"exit":137}')
        assert [type(event) for event in found] == [VmCreate, Observe, Lost]
        assert stream.trailer().total("lost") == 2
        with pytest.raises(TraceSyntaxError, match=r"case\.out:2: not JSON"):
            imported(line("vm v"), line("close v")[:30], line("close v"))

    def test_a_clean_end(self) -> None:
        """Exit status 0 is no loss, and the trailer counts the events."""
        found, stream = imported(line("vm v"), '{"exit":0}')
        assert len(found) == stream.trailer().events == 2
        assert stream.trailer().counters == ()
        assert list(stream.warnings()) == []
