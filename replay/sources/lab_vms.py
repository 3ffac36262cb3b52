"""Keep what slotprobe keeps: names of VMs, what holds a VM alive, notifier nodes of the test module, the memory cgroup."""

import attrs


@attrs.define
class LabVm:
    """One VM of the recording. holders: fds beside the VM's own that keep it alive (vCPUs, guest_memfds) and are not closed.

    guest: the mode of its command-loop guest, "" without one. rooted: it has a shadow root.
    """

    number: int
    open: bool = True
    holders: int = 0
    guest: str = ""
    rooted: bool = False
    dark: bool = False
    """Shadow pages came and went without tracepoints: nothing can be said of them from there on."""

    def alive(self, nodes: int) -> bool:
        """Tell whether something still holds the VM."""
        return self.open or bool(self.holders) or bool(nodes)


@attrs.define
class LabVms:
    """All VMs of a script, by name and by number, and the nodes that the test module registered."""

    by_name: dict[str, LabVm] = attrs.field(factory=dict)
    count: int = 0
    nodes: dict[int, LabVm] = attrs.field(factory=dict)
    module_open: bool = False
    """The probe's own process has the test module open: a child that opens it for itself drops its nodes when it exits."""

    def make(self, name: str) -> LabVm:
        """Return a new VM under a name; numbers are never used again."""
        vm = LabVm(self.count)
        self.count += 1
        self.by_name.setdefault(name, vm)
        return vm

    def failed(self) -> int:
        """Return the number of a VM that was not created."""
        self.count += 1
        return self.count - 1

    def nodes_of(self, vm: LabVm) -> int:
        """Return how many nodes hold a VM."""
        return sum(1 for holder in self.nodes.values() if holder is vm)


@attrs.define
class LabCgroup:
    """The memory cgroup that the probe is in: its limit, and what it is charged."""

    limit_bytes: int | None = None
    current_bytes: int = 0

    def left_pages(self) -> int | None:
        """Return what may still be charged; None without a limit."""
        return None if self.limit_bytes is None else max(0, self.limit_bytes - self.current_bytes) >> 12
