"""Replay events in the slowest honest way: a second model of KVM's write tracking, to hold the first one against.

Written from the kernel's rules alone, with dicts and loops. Nothing of replay.kvm is imported; what both must agree on is the
vocabulary (events, names of allocating functions, words of the kernel log).
"""

from slow_slots import Dict, SlowSlots

from replay.events import (
    AllocFail,
    Event,
    IrqchipCreate,
    MemoryLimit,
    MemslotSet,
    NotifierRegister,
    NotifierUnregister,
    ShadowRootAlloc,
    TssSet,
    VcpuCreate,
    VmCreate,
    VmDestroy,
    VmEnableCap,
    WriteTrackQuery,
)
from replay.events.write_track import GuestWrite, HotEvent, ShadowPageAccount, ShadowPageUnaccount, WriteTrackAdd

TSS, APIC, IDENTITY = 32764, 32765, 32766


class SlowWorld(SlowSlots):
    """All VMs of one policy and profile."""

    def __init__(self, policy: str, facts: Dict) -> None:
        super().__init__(policy, facts)
        self.vms: dict[int, Dict] = {}
        self.gone: list[int] = []

    def apply(self, event: Event) -> int | None:
        """Apply one event and return its result; a query returns 1 or 0, as does a guest write that hits a tracked gfn."""
        self.log, self.memory.failed = [], []
        number: int | None = getattr(event, "vm", None)
        if number in self.gone:
            self.log.append("the VM is gone")
            return None
        if isinstance(event, AllocFail):
            if event.off:
                self.memory.stop(event.vm, event.site)
            else:
                self.memory.inject(event.vm, event.site, event.nth, event.count)
            return None
        if isinstance(event, MemoryLimit):
            self.memory.limit = event.limit_pages
            return None
        assert number is not None, event
        if isinstance(event, VmCreate):
            self.create_vm(number, event.type)
            return 0
        return self._on_vm(self.vms[number], event)

    def _on_vm(self, vm: Dict, event: Event) -> int | None:
        if isinstance(event, HotEvent):
            return self._hot(vm, event)
        if isinstance(event, NotifierRegister):
            return self.register(vm, event)
        if isinstance(event, VmDestroy):
            self._close(vm, event)
            return None
        if isinstance(event, NotifierUnregister):
            self.unregister(vm, event)
            return None
        assert isinstance(event, MemslotSet | TssSet | VcpuCreate | IrqchipCreate | ShadowRootAlloc | VmEnableCap), event
        if isinstance(event, MemslotSet):
            return self.set_user_region(vm, event)
        if event.foreign_mm or vm["bugged"]:
            return -5
        if isinstance(event, VmEnableCap):
            return self.enable_cap(vm, event)
        if isinstance(event, TssSet):
            return self.set_tss(vm, event.guest_phys_addr)
        if isinstance(event, VcpuCreate):
            return self.create_vcpu(vm)
        if isinstance(event, IrqchipCreate):
            vm["irqchip"] = True
            return 0
        return self.first_shadow_root(vm)

    def create_vm(self, number: int, vm_type: int) -> None:
        """Make a VM; how many address spaces it has depends on SMM, the release and private memory."""
        nas = 2
        if self.facts["release"] >= (6, 2, 0) and (not self.facts["smm"] or vm_type in {1, 4, 5}):
            nas = 1
        spaces = [{"active": 0, "gen": i, "sets": [[[] for _ in range(128)] for _ in range(2)]} for i in range(nas)]
        vm: Dict = {"number": number, "type": vm_type, "nas": nas, "spaces": spaces, "pages": 0, "indirect": 0}
        vm |= {
            "shadow": False,
            "ext": False,
            "bugged": False,
            "nodes": [],
            "users": 1,
            "table": {},
            "destroyed": False,
            "disabled": False,
            "lpage_warned": False,
        }
        vm |= {"irqchip": False, "apic": False, "identity": False, "vcpus": 0}
        self.vms[number] = vm

    # --- the external user

    def no_external_api(self) -> bool:
        """Tell whether the functions for external users are compiled out: from the 6.6 API on without the option."""
        return not self.old_api and not self.facts["config_external_write_tracking"]

    def register(self, vm: Dict, event: NotifierRegister) -> int:
        """Link a node; the on-demand policy allocates first, address space by address space."""
        if self.no_external_api():
            return -95
        if not self.old_api and (event.null_kvm or event.foreign_mm):
            return -3
        if vm["disabled"]:
            return -22
        if self.policy in {"on-demand", "ideal"} and not vm["ext"]:
            if vm["type"] == 5 and self.facts["release"] >= (6, 16, 0):
                return -95
            if self.policy == "on-demand" and not self.enabled(vm) and not self.track_all(vm, "kvm_page_track_register_notifier"):
                return -12
            vm["ext"] = True
        if self.policy == "v2" and not self.one_flag(vm, "kvm_page_track_register_notifier"):
            return -12
        if not self.old_api:
            vm["users"] += 1
        vm["nodes"].insert(0, event.node)
        return 0

    def track_all(self, vm: Dict, caller: str) -> bool:
        """Allocate the counters of all slots, address space by address space; what was made before a failure stays."""
        for as_id in range(vm["nas"]):
            for slot in self.walk(vm, as_id):
                if not self.alloc_tracking(vm, slot, caller):
                    return False
        return True

    def one_flag(self, vm: Dict, caller: str) -> bool:
        """Enable write tracking as the second version of the patch does: all counters, then the flag."""
        if self.enabled(vm):
            return True
        if not self.track_all(vm, caller):
            return False
        vm["ext"] = True
        return True

    def enable_cap(self, vm: Dict, event: VmEnableCap) -> int:
        """Answer KVM_ENABLE_CAP of number 236, the only one that streams have."""
        assert event.cap == 236
        if self.policy != "v1":
            return -22
        if event.flags:
            return -22
        value = event.args[0]
        if value not in {0, 1}:
            return -22
        if value == 0 and (not self.facts["tdp"] or vm["shadow"]):
            return -16
        if self.facts["config_external_write_tracking"]:
            if self.walk(vm, 0) or vm["nodes"]:
                return -22
            vm["disabled"] = value == 0
        return 0

    def unregister(self, vm: Dict, event: NotifierUnregister) -> None:
        """Unlink a node; the last reference may go with it. The driver's own table goes with its last node."""
        if event.node not in vm["nodes"]:
            return
        vm["nodes"].remove(event.node)
        if not vm["nodes"]:
            vm["table"] = {}
        if not self.old_api:
            vm["users"] -= 1
            if vm["users"] == 0:
                self.destroy(vm, foreign_mm=event.foreign_mm)

    def _hot(self, vm: Dict, event: HotEvent) -> int | None:
        gfn, as_id = event.gfn, event.as_id if vm["nas"] == 2 else 0
        if isinstance(event, ShadowPageAccount | ShadowPageUnaccount):
            delta = 1 if isinstance(event, ShadowPageAccount) else -1
            vm["indirect"] = max(vm["indirect"] + delta, 0)
            slot = self.find_gfn(vm, as_id, gfn)
            if slot is None:
                self.log.append("no memslot for the gfn")
            elif event.level >= 2:
                self.track(vm, slot, gfn, delta)
            else:
                self.disallow(vm, slot, gfn, delta)
            return None
        if isinstance(event, WriteTrackQuery | GuestWrite):
            return 1 if self.tracked(vm, as_id, gfn) else 0
        return self.external(vm, as_id, gfn, 1 if isinstance(event, WriteTrackAdd) else -1)

    def external(self, vm: Dict, as_id: int, gfn: int, delta: int) -> int:
        """Add or remove for a driver: the new API looks in address space 0 only."""
        if self.no_external_api():
            return -95
        slot = self.find_gfn(vm, as_id if self.old_api else 0, gfn)
        if slot is None:
            return -22
        self.track(vm, slot, gfn, delta)
        vm["table"][gfn] = vm["table"].get(gfn, 0) + delta
        if vm["table"][gfn] <= 0:
            del vm["table"][gfn]
        return 0

    def tracked(self, vm: Dict, as_id: int, gfn: int) -> bool:
        """Answer a read; kernels with the fix of 2026 look in the other address space too."""
        slot = self.find_gfn(vm, as_id, gfn)
        if slot is None or not self.enabled(vm):
            return False
        if slot["counts"].get(gfn, 0):
            return True
        release, first_fixed = self.facts["release"], {(6, 1): 187, (6, 6): 156, (6, 12): 108, (6, 18): 49}
        fixed = release[2] >= first_fixed[release[:2]] if release[:2] in first_fixed else release >= (7, 2, 0)
        if not fixed or vm["nas"] == 1:
            return False
        other = self.find_gfn(vm, 1 - as_id, gfn)
        return other is not None and other["counts"].get(gfn, 0) > 0

    # --- shadow roots, internal slots, the end

    def first_shadow_root(self, vm: Dict) -> int:
        """Allocate what shadow paging needs, slot by slot; a failure keeps what was done."""
        if vm["shadow"]:
            return 0
        if self.policy == "v2" and not self.one_flag(vm, "kvm_page_track_write_tracking_alloc"):
            return -12
        if not (self.has_rmaps(vm) and self.enabled(vm)):
            for as_id in range(vm["nas"]):
                for slot in self.walk(vm, as_id):
                    if not self.alloc_rmaps(vm, slot):
                        return -12
                    if self.policy == "ideal":
                        continue
                    if not self.alloc_tracking(vm, slot, "kvm_page_track_write_tracking_alloc"):
                        return -12
        vm["shadow"] = True
        return 0

    def internal_slot(self, vm: Dict, slot_id: int, gpa: int, npages: int) -> int:
        """Create an internal slot in each address space; what came before a failure stays."""
        if self.find(vm, 0, slot_id) is not None:
            return -17
        for as_id in range(vm["nas"]):
            ret = self.set_region(vm, slot_id + 65536 * as_id, 0, gpa, npages * 4096, 0x7F00_0000_0000, None)
            if ret:
                return ret
        return 0

    def set_tss(self, vm: Dict, gpa: int) -> int:
        """Answer KVM_SET_TSS_ADDR: a slot on VMX without unrestricted guest."""
        if gpa > 0xFFFFD000:
            return -22
        if self.facts["vendor"] == "intel" and not self.facts["unrestricted_guest"]:
            return self.internal_slot(vm, TSS, gpa, 3)
        return 0

    def create_vcpu(self, vm: Dict) -> int:
        """Answer KVM_CREATE_VCPU: APIC page, then identity map, each once."""
        facts = self.facts
        apic = {"intel": facts["flexpriority"], "amd": facts["avic"]}.get(facts["vendor"], False)
        if apic and vm["irqchip"] and not vm["apic"]:
            ret = self.internal_slot(vm, APIC, 0xFEE00000, 1)
            if ret:
                return ret
            vm["apic"] = True
        if facts["vendor"] == "intel" and facts["tdp"] and not facts["unrestricted_guest"] and not vm["identity"]:
            ret = self.internal_slot(vm, IDENTITY, 0xFFFBC000, 1)
            if ret:
                return ret
            vm["identity"] = True
        vm["vcpus"] += 1
        return 0

    def _close(self, vm: Dict, event: VmDestroy) -> None:
        if vm["destroyed"]:
            self.log.append("the VM is gone")
            return
        vm["destroyed"] = True
        vm["users"] -= 1
        if vm["users"] == 0:
            self.destroy(vm, foreign_mm=event.foreign_mm)

    def destroy(self, vm: Dict, *, foreign_mm: bool) -> None:
        """Delete internal slots in the VM's own mm, then free the rest."""
        if not foreign_mm:
            for slot_id in (APIC, IDENTITY, TSS):
                if self.find(vm, 0, slot_id) is None:
                    continue
                for as_id in range(vm["nas"]):
                    if self.set_region(vm, slot_id + 65536 * as_id, 0, 0, 0, 0, None):
                        break
        for as_id in range(vm["nas"]):
            for slot in self.walk(vm, as_id):
                self.free_arrays(slot)
                self.memory.free(slot["dirty"])
                self.memory.free(slot["object"])
        del self.vms[vm["number"]]
        self.gone.append(vm["number"])
