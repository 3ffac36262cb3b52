"""Describe the machine that a lane pretends to run on: every fact that decides what its KVM does.

A profile is complete: what neither the recording's header nor the user says is assumed, and the assumption is kept in
`assumed` so that a report can say it. Source of the meaning of each fact: arch/x86/kvm (see the field comments).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from replay.errors import ProfileError
from replay.header import Machine
from replay.kvm.release import Release
from replay.units import YES_NO, fact_word


@attrs.frozen(kw_only=True)
class Profile:
    """Facts of one machine. Source of each default: what a current distribution kernel on server hardware has."""

    release: Release = Release(6, 12)
    config_external_write_tracking: bool = True  # Kconfig, selected by DRM_I915_GVT_KVMGT; 6.1/6.12 Debian amd64: y
    tdp: bool = True  # tdp_enabled, arch/x86/kvm/mmu/mmu.c kvm_configure_mmu()
    tdp_mmu: bool = True  # module parameter; effective only with tdp, mmu/tdp_mmu.c
    smm: bool = True  # CONFIG_KVM_SMM (6.2 and later; before that always)
    vendor: str = ""  # kvm_intel, kvm_amd, or another module; "" is not known
    unrestricted_guest: bool = True  # enable_unrestricted_guest, vmx.c
    flexpriority: bool = True  # flexpriority_enabled, vmx.c
    avic: bool = False  # kvm_apicv_activated() on AMD
    la57: bool = False  # host five-level paging: TASK_SIZE_MAX
    max_phys_bits: int = 52  # host MAXPHYADDR, limits gfns when tdp is on: mmu.h kvm_mmu_max_gfn()
    total_ram_pages: int = 0  # totalram_pages(), mm/vmalloc.c; 0 is not known: no limit
    assumed: tuple[str, ...] = ()

    @property
    def tdp_mmu_enabled(self) -> bool:
        """Whether the TDP MMU is in use: allowed and tdp. Source: mmu.c kvm_configure_mmu() [6.12]."""
        return self.tdp and self.tdp_mmu

    def facts(self) -> dict[str, str]:
        """Return the facts as words, in a fixed order, for reports."""
        return {name: fact_word(getattr(self, name)) for name in _READERS}


def _flag(text: str) -> bool:
    if text.lower() not in YES_NO:
        raise ValueError(text)
    return YES_NO[text.lower()]


def _number(text: str, least: int, most: int) -> int:
    number = int(text)
    if not least <= number <= most:
        raise ValueError(text)
    return number


_READERS: Final[dict[str, Callable[[str], Any]]] = {
    "release": Release.parse,
    "config_external_write_tracking": _flag,
    "tdp": _flag,
    "tdp_mmu": _flag,
    "smm": _flag,
    "vendor": str,
    "unrestricted_guest": _flag,
    "flexpriority": _flag,
    "avic": _flag,
    "la57": _flag,
    "max_phys_bits": lambda text: _number(text, 32, 52),
    "total_ram_pages": lambda text: _number(text, 0, 1 << 52),
}
"""How a fact is read from text: the names that --profile takes."""
ALIASES: Final = {"config": "config_external_write_tracking", "ept": "tdp", "npt": "tdp", "kernel_release": "release"}


def parse_facts(text: str) -> dict[str, Any]:
    """Read `tdp=1,config=y,release=6.8` into facts. Raises ProfileError naming the word that is wrong.

    >>> parse_facts("tdp=1,config=n")
    {'tdp': True, 'config_external_write_tracking': False}
    """
    facts: dict[str, Any] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = word.partition("=")
        name = ALIASES.get(name.strip(), name.strip())
        if not equals or name not in _READERS:
            raise ProfileError(
                f"{word!r} is not a fact of a profile", expected="NAME=VALUE with NAME one of " + ", ".join(_READERS)
            )
        try:
            facts[name] = _READERS[name](value.strip())
        except ValueError as error:
            raise ProfileError(f"{value!r} is no value for {name}", expected="0 or 1, or a number in range") from error
    return facts


def profile_of(machine: Machine, overrides: Mapping[str, Any] | None = None) -> Profile:
    """Make a complete profile from a recording's header and the user's overrides; what is missing is assumed and named."""
    known: dict[str, Any] = {}
    if machine.kernel_release is not None:
        known["release"] = Release.parse(machine.kernel_release)
    for name in _READERS:
        value = getattr(machine, name, None)
        if value is not None:
            known[name] = value
    if machine.tdp is False and (overrides or {}).get("tdp"):
        # Without tdp the TDP MMU is off whatever its module parameter says [mmu.c kvm_configure_mmu()]: nothing is known of it.
        known.pop("tdp_mmu", None)
    known |= dict(overrides or {})
    default = Profile()
    assumed = tuple(f"{name}={word}" for name, word in default.facts().items() if name not in known and _matters(name, known))
    return attrs.evolve(default, assumed=assumed, **known)


def _matters(name: str, known: Mapping[str, Any]) -> bool:
    """Tell whether an assumed fact can change an answer, given the known ones."""
    intel, amd = known.get("vendor") == "intel", known.get("vendor") == "amd"
    return {
        "unrestricted_guest": intel,
        "flexpriority": intel,
        "avic": amd,
        "tdp_mmu": known.get("tdp", True) is not False,
        "total_ram_pages": False,
    }.get(name, True)
