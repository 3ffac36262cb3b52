"""Choose the probes on KVM's own functions that bpftrace can place here."""

import re
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from typing import Final

from replay.record.processes import run_mortal

PROGRAM: Final = "kfunc.bt"
LIST_SECONDS: Final = 30
PATTERNS: Final = ("kfunc:*kvm_*track_*", "kfunc:*kvm_arch_init_vm")
"""What bpftrace is asked for; the first one has functions of every KVM. A question takes a second."""
_BLOCK: Final = re.compile(r"^(k(?:ret)?func):(\w+) \{\n.*?^\}\n", re.MULTILINE | re.DOTALL)


def blocks() -> Iterator[tuple[str, str, str]]:
    """Yield kind, function and text of each probe that there is."""
    text = (files("replay") / "recorders" / PROGRAM).read_text()
    yield from ((found[1], found[2], found[0]) for found in _BLOCK.finditer(text))


def chosen(listing: str) -> str:
    r"""Return the probes whose functions a listing (`bpftrace -lv`) has, without a result where the function has none.

    >>> "ret=" in chosen("kfunc:kvm:kvm_page_track_register_notifier\n    struct kvm * kvm\n")
    False
    """
    found = dict(_functions(listing))
    kept = []
    for _kind, name, text in blocks():
        if name in found:
            kept.append(text if "retval" in found[name] else text.replace(" ret=%d", "").replace(", retval", ""))
    return "".join(kept)


def _functions(listing: str) -> Iterator[tuple[str, str]]:
    """Yield the functions of a listing, each with the lines of its arguments and result."""
    for part in re.split(r"^(?=\S)", listing, flags=re.MULTILINE):
        head, _, rest = part.partition("\n")
        if head.startswith(("kfunc:", "fentry:")):
            yield head.rpartition(":")[2].strip(), rest


def kernel_probes() -> str:
    """Return the probes that this machine's bpftrace lists; none where it has no fentry (BTF, ftrace with direct calls)."""
    listing = ""
    for pattern in PATTERNS:
        found = _listed(pattern)
        if not found:
            break
        listing += found
    return chosen(listing)


def _listed(pattern: str) -> str:
    words = ["bpftrace", "-lv", pattern]
    try:
        done = run_mortal(words, LIST_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""
