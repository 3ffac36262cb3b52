"""List the workload profiles: the machine that they pretend to be recorded on, the lives of their VMs, how many at once."""

from typing import Final

import attrs

from replay.errors import UsageError
from replay.generate.lives import Life, gvisor, gvtg, hotplug, migration, nested, qemu_boot, shadow
from replay.header import Machine

DISTRIBUTION: Final = Machine(
    kernel_release="6.12.0",
    config_external_write_tracking=True,
    tdp=True,
    tdp_mmu=True,
    smm=True,
    vendor="intel",
    unrestricted_guest=True,
    flexpriority=True,
    la57=False,
    max_phys_bits=52,
)
"""A distribution's kernel on current hardware, with KVMGT built in: where the policies differ."""
SHADOW_PAGED: Final = Machine(
    kernel_release="6.18.44",
    config_external_write_tracking=False,
    tdp=False,
    tdp_mmu=False,
    smm=False,
    vendor="pvm",
    la57=False,
    max_phys_bits=52,
)
"""The host of the captures."""


@attrs.frozen(kw_only=True)
class Profile:
    """One kind of recording. lives: what its VMs do, one after the other; vms: how many are alive at once by default."""

    name: str
    title: str
    lives: tuple[Life, ...]
    vms: int
    machine: Machine = DISTRIBUTION


PROFILES: Final[tuple[Profile, ...]] = (
    Profile(name="qemu-boot", title="QEMU: boots and resets", lives=(qemu_boot,), vms=2),
    Profile(name="migration", title="QEMU: dirty logging of a migration, again and again", lives=(migration,), vms=1),
    Profile(name="hotplug", title="QEMU: DIMMs plugged and unplugged", lives=(hotplug,), vms=1),
    Profile(name="gvisor", title="gVisor: an address space mapped fault by fault", lives=(gvisor,), vms=1),
    Profile(name="nested", title="shadow pages of nested guests", lives=(nested,), vms=2),
    Profile(
        name="shadow", title="shadow pages without tdp, as the largest capture", lives=(shadow,), vms=1, machine=SHADOW_PAGED
    ),
    Profile(name="gvtg", title="vGPUs: opened, tracking, closed", lives=(gvtg,), vms=2),
    Profile(name="mixed", title="all of it on one host", lives=(qemu_boot, migration, hotplug, gvisor, nested, gvtg), vms=6),
)


def profile_named(name: str) -> Profile:
    """Return a profile. Raises UsageError for a name that there is not.

    >>> profile_named("nested").vms
    2
    """
    for profile in PROFILES:
        if profile.name == name:
            return profile
    raise UsageError(f"{name!r} is no profile", expected=f"one of {', '.join(profile.name for profile in PROFILES)}")
