"""Read what the tracepoints and kprobes of one slotprobe operation say of shadow pages.

Rule of the tracepoints: kvm_mmu_get_page "new" that is not direct counts up, kvm_mmu_prepare_zap_page that is neither direct
nor invalid counts down. Text does not print role.passthrough, with which a level-5 root is not counted; the kprobes on the
functions that do count (wt_add) tell. Source: arch/x86/kvm/mmu/mmu.c account_shadowed(), mmutrace.h [6.1, 6.12].
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

import attrs

from replay.runs import ACCOUNT, UNACCOUNT

_PAGE: Final = re.compile(
    r"kvm_mmu_(get_page|prepare_zap_page): sp gen \w{1,16} gfn ([0-9a-f]{1,16}) l([1-5]) \d{1,2}-byte q\d{1,2}( direct)? "
    r"\S{1,8}( invalid)? !?nxe !?ad root -?\d{1,10} (?:sync|unsync)(?: (new|existing))?"
)
_KPROBE: Final = re.compile(r"wt_(add|rem): \([^)]{0,200}\) gfn=(\d{1,20})")
_ROOT: Final = re.compile(r"(?:rmap|wtalloc): ")
_REST: Final = re.compile(r"(?:kvm_mmu_(?:zap_all_fast|sync_page|unsync_page)|create|create_r|wtalloc_r|reg|reg_r|unreg): ")


@attrs.frozen
class ShadowPage:
    """One shadow page that is counted in or out."""

    kind: int
    gfn: int
    level: int


@attrs.define
class Traced:
    """What the trace lines of one operation say.

    root: arrays were allocated for a first shadow root, or a shadow page with guest PTEs was made. passthrough: pages left out
    because no kprobe saw them counted. unknown: lines that are none of those that slotprobe records.
    """

    pages: list[ShadowPage] = attrs.field(factory=list)
    root: bool = False
    passthrough: int = 0
    unknown: int = 0


def read_trace(lines: Sequence[str]) -> Traced:
    """Read the trace lines of one operation, in order. Never raises: what is not understood is counted."""
    traced = Traced()
    kprobes = Counter((match[1], int(match[2])) for line in lines if (match := _KPROBE.match(line)))
    seen = bool(kprobes)
    for line in lines:
        match = _PAGE.match(line)
        if match is not None:
            _add_page(traced, match, kprobes if seen else None)
        elif _ROOT.match(line):
            traced.root = True
        elif not _KPROBE.match(line) and not _REST.match(line):
            traced.unknown += 1
    return traced


def _add_page(traced: Traced, match: re.Match[str], kprobes: Counter[tuple[str, int]] | None) -> None:
    call, gfn, level, direct, invalid, created = match[1], int(match[2], 16), int(match[3]), match[4], match[5], match[6]
    made = call == "get_page"
    if direct or (created != "new" if made else invalid):
        return
    traced.root |= made
    if level > 1 and kprobes is not None:
        probe = ("add" if made else "rem", gfn)
        if not kprobes[probe]:
            traced.passthrough += 1
            return
        kprobes[probe] -= 1
    traced.pages.append(ShadowPage(ACCOUNT if made else UNACCOUNT, gfn, level))
