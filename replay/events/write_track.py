"""Name the hot events: write-track counts that go up and down, reads of them, guest writes, shadow pages.

They are nearly all of a recording, so the container keeps them as columns (`replay.runs.Run`) and the engine folds them
without an object an event. All six have the same fields, which is what makes that possible.
"""

import attrs

from replay.events.base import Event, event, flag, sint, uint
from replay.units import AsId, Gfn


@attrs.frozen(kw_only=True, eq=False, repr=False)
class HotEvent(Event):
    """Common shape of the hot kinds; never instantiated."""

    vm: int = uint("number of the VM", bits=16)
    as_id: AsId = uint("address space; of a shadow page: role.smm", bits=8, default=AsId(0))
    gfn: Gfn = uint("guest frame number; of a shadow page: of the guest's page table", unit="gfn")
    level: int = uint("page-table level of a shadow page, 1..5; 0 for the other kinds", bits=8, default=0)
    nested: bool = flag("shadow page of an L2 guest (role.guest_mode)")
    ret: int | None = sint("recorded result: 0 or -errno, 1 or 0 of a query; null: not recorded", optional=True)


@event(64, "write_track.add", hot=True)
@attrs.frozen(kw_only=True, eq=False, repr=False)
class WriteTrackAdd(HotEvent):
    """kvm_write_track_add_gfn() called by an external user (KVMGT): always address space 0 from 6.6 on.

    Before 6.6 the caller looks the slot up itself and calls kvm_slot_page_track_add_page().
    Source: arch/x86/kvm/mmu/page_track.c.
    """


@event(65, "write_track.remove", hot=True)
@attrs.frozen(kw_only=True, eq=False, repr=False)
class WriteTrackRemove(HotEvent):
    """kvm_write_track_remove_gfn() called by an external user.

    Source: arch/x86/kvm/mmu/page_track.c.
    """


@event(66, "write_track.query", hot=True)
@attrs.frozen(kw_only=True, eq=False, repr=False)
class WriteTrackQuery(HotEvent):
    """kvm_gfn_is_write_tracked(): asked on faults and before a shadow page may go out of sync.

    Source: arch/x86/kvm/mmu/page_track.c; callers page_fault_handle_page_track(), mmu_try_to_unsync_pages().
    """


@event(67, "guest_write", hot=True)
@attrs.frozen(kw_only=True, eq=False, repr=False)
class GuestWrite(HotEvent):
    """An emulated guest write that reaches kvm_page_track_write(): notifiers see it.

    Source: arch/x86/kvm/x86.c emulator_write_phys(), emulator_cmpxchg_emulated().
    """


@event(68, "shadow_page.account", hot=True)
@attrs.frozen(kw_only=True, eq=False, repr=False)
class ShadowPageAccount(HotEvent):
    """account_shadowed(): a new shadow page with guest PTEs; level 2 and up count the gfn as write-tracked.

    Source: arch/x86/kvm/mmu/mmu.c account_shadowed(); tracepoint kvmmmu:kvm_mmu_get_page created=1, not direct.
    """


@event(69, "shadow_page.unaccount", hot=True)
@attrs.frozen(kw_only=True, eq=False, repr=False)
class ShadowPageUnaccount(HotEvent):
    """unaccount_shadowed(): the first zap of such a shadow page.

    Source: arch/x86/kvm/mmu/mmu.c unaccount_shadowed(); tracepoint kvmmmu:kvm_mmu_prepare_zap_page, not yet invalid.
    """
