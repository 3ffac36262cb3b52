"""Turn what slotprobe read from the kernel into `observe` events."""

from typing import Any

from replay.errors import TraceSyntaxError
from replay.events import ObservedArea, ObservedCount, ObservedSlot, ObservedVm
from replay.sources.lab_lines import number
from replay.units import U16_MAX, U32_MAX, U64_MAX

SLOTS_MAX = 32767 * 2


def areas_of(rows: tuple[tuple[str, int, int, int, int], ...]) -> tuple[ObservedArea, ...]:
    """Return the areas of one operation, by site."""
    return tuple(ObservedArea(*row) for row in sorted(rows))


def state_of(dump: Any, where: str) -> ObservedVm:
    """Return the state of a VM as `dump` or `counts` printed it. Raises TraceSyntaxError."""
    if not isinstance(dump, dict) or not isinstance(dump.get("slots"), list) or len(dump["slots"]) > SLOTS_MAX:
        raise TraceSyntaxError("dump is not a state", where=where, expected="an object with a list of slots")
    return ObservedVm(
        nr_memslot_pages=_number(dump, "nr_memslot_pages", U64_MAX, where),
        shadow_root_allocated=_flag(dump, "shadow_root_allocated", where),
        external_write_tracking_enabled=_flag(dump, "external_write_tracking_enabled", where),
        indirect_shadow_pages=_number(dump, "indirect_shadow_pages", U64_MAX, where),
        vm_bugged=_flag(dump, "vm_bugged", where),
        has_notifier=_flag(dump, "has_notifier", where),
        slots=tuple(_slot(slot, where) for slot in dump["slots"]),
    )


def _number(found: dict[str, Any], name: str, most: int, where: str) -> int | None:
    value = found.get(name)
    return None if value is None else number(value, most, f"{where}, {name}")


def _flag(found: dict[str, Any], name: str, where: str) -> bool | None:
    value = found.get(name)
    return None if value is None else bool(number(value, 1, f"{where}, {name}"))


def _slot(found: Any, where: str) -> ObservedSlot:
    if not isinstance(found, dict):
        raise TraceSyntaxError("a slot is not an object", where=where)

    def field(name: str, most: int) -> int:
        return number(found.get(name), most, f"{where}, slot {name}")

    return ObservedSlot(
        as_id=field("as", 255),
        id=field("id", U16_MAX),
        base_gfn=field("base", U64_MAX),
        npages=field("npages", U64_MAX),
        flags=field("flags", U32_MAX),
        gfn_write_track=bool(field("wt", 1)),
        rmap=_flags(found.get("rmap"), 3, where),
        lpage_info=_flags(found.get("lpage"), 2, where),
        dirty_bitmap=bool(field("dirty", 1)),
        counts=_counts(found, where),
    )


def _flags(found: Any, length: int, where: str) -> tuple[int, ...]:
    if not isinstance(found, list) or len(found) != length:
        raise TraceSyntaxError(f"{str(found)[:40]!r}", where=where, expected=f"{length} flags of 0 or 1")
    return tuple(number(flag, 1, where) for flag in found)


def _counts(found: dict[str, Any], where: str) -> tuple[ObservedCount, ...] | None:
    """Return the counters; None when they were not read, or not all of them were printed."""
    counts = found.get("counts")
    if counts is None:
        return None
    if not isinstance(counts, dict) or len(counts) > 1024:
        raise TraceSyntaxError("counts is not a small object", where=where)
    if found.get("nonzero", len(counts)) != len(counts):
        return None
    rows = []
    for gfn, count in counts.items():
        if not (gfn.isascii() and gfn.isdecimal() and len(gfn) <= 20):
            raise TraceSyntaxError(f"{gfn[:40]!r} is not a gfn", where=where)
        rows.append(ObservedCount(number(int(gfn), U64_MAX, where), number(count, U16_MAX, where)))
    return tuple(sorted(rows, key=lambda row: row.gfn))
