"""Carry what people wrote into a golden file over to the next one: comments stay before the line that they stood before."""

from typing import Final

from replay.golden.parsed import Entry, Parsed, Path, comments

_END: Final = 0


def carried(old_text: str, old: Parsed, new_text: str, new: Parsed) -> str:
    """Return the new text with the comments and remarks of the old one. Cost: O(lines).

    A comment stands before the same line as it did: the same event, finding or total, wherever that is now. When the line is
    gone it goes to the next one that is there; a remark behind an event that is gone becomes a comment.
    """
    places = {entry.path: entry.number for entry in new.entries}
    kept: dict[int, list[str]] = {}
    following = _following(old.entries, places)
    for block, number in comments(old_text):
        kept.setdefault(following.get(number, _END), []).extend(block)
    remarks: dict[int, str] = {}
    for entry in old.entries:
        if entry.remark and entry.path in places:
            remarks[places[entry.path]] = entry.remark
        elif entry.remark:
            kept.setdefault(following.get(entry.number, _END), []).append(f"  # {entry.path[-1]}: {entry.remark}")
    return _woven(new_text, new.entries, kept, remarks)


def _following(entries: list[Entry], places: dict[Path, int]) -> dict[int, int]:
    """Return for each line of the old file the line of the new one that it is, or that the next one is."""
    found, place = dict[int, int](), _END
    for entry in reversed(entries):
        place = places.get(entry.path, place)
        found[entry.number] = place
    return found


def _woven(text: str, entries: list[Entry], kept: dict[int, list[str]], remarks: dict[int, str]) -> str:
    results = {entry.number: entry.value for entry in entries if entry.number in remarks}
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        _append(lines, kept.get(number, []))
        mark = " " if results.get(number) else "  # "
        lines.append(f"{line}{mark}{remarks[number]}" if number in remarks else line)
    _append(lines, kept.get(_END, []))
    return "\n".join(lines) + "\n"


def _append(lines: list[str], block: list[str]) -> None:
    """Append a block, without a second empty line in front of it."""
    for line in block:
        if line or not lines or lines[-1]:
            lines.append(line)
