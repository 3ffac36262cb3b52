"""Read CTF as babeltrace2 prints it: traces of LTTng, and of perf through `perf data convert --to-ctf`.

    [HH:MM:SS.nnnnnnnnn] (+delta) [host] [procname:vpid] EVENT: { cpu_id = N }, { context... }, { fields... }

Which task it was is in a context that has to be recorded: perf_tid and perf_pid by perf, tid and pid when LTTng was told so
(`lttng add-context -k -t pid -t tid -t procname`).
"""

import re
from typing import Final

from replay.sources.dialects import NOTE, Dialect, Fact, Ignored, Thread, fields_of, ioctl_enter, page_fact, result, seconds_ns
from replay.sources.tracefs_grammar import LostLine, SyscallExit

FORMAT: Final = "CTF text"
_LINE: Final = re.compile(
    rb"\[(?P<time>(?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d|\d{1,11})\.(?P<fraction>\d{9})\] \(\+[?\d.]+\) "
    # The usual contexts of perf and LTTng are tried first, because looking for the task from each place on is slow.
    rb"(?P<body>[^{]+\{(?: cpu_id = \d+ \}, \{(?: perf_ip = \w+, perf_)? ?|.*?)"
    rb"(?P<head>[tp]id = \d{1,7}, (?:perf_)?v?[tp]id = \d{1,7}).*\})\s*$"
)
_HEAD: Final = re.compile(rb"([tp])id = (\d+), (?:perf_)?v?([tp])id = (\d+)")
_EVENT: Final = re.compile(rb"(?:.*[ :])?([\w]+): \{")
_LOST: Final = re.compile(rb".*[Tt]racer (?:may have )?(?:discarded|lost) (?:(\d{1,18}) )?(?:trace )?(?:events|packets)?.*")
_EVENTS: Final[dict[str, str]] = {
    "kvm_mmu_get_page": "get",
    "kvm_mmu_prepare_zap_page": "zap",
    "sys_enter_ioctl": "enter",
    "syscall_entry_ioctl": "enter",
    "sys_exit_ioctl": "exit",
    "syscall_exit_ioctl": "exit",
}
"""Names that perf (those of the kernel) and LTTng (its own) give the events that matter."""


def thread(head: bytes) -> Thread | None:
    """Read `pid = N, tid = N` in either order; only one of them twice is nothing."""
    match = _HEAD.fullmatch(head)
    if match is None or match[1] == match[3]:
        return None
    first, second = int(match[2]), int(match[4])
    return Thread(first, second) if match[1] == b"t" else Thread(second, first)


def fact(body: bytes) -> Fact | None:
    """Read `EVENT: { context }, { fields }`; None for an event of KVM's that lacks fields."""
    match = _EVENT.match(body)
    if match is None:
        return None
    name = match[1].decode()
    event = name if name in _EVENTS else name.removeprefix("kvm_x86_")
    kind, fields = _EVENTS.get(event), fields_of(body[match.end() - 1 :])
    if kind is None:
        return Ignored(f"event {event}")
    if kind == "enter":
        return ioctl_enter(fields)
    if kind == "exit":
        return SyscallExit("ioctl", result(fields["ret"])) if "ret" in fields else None
    return page_fact(event, fields)


def time_ns(time: bytes, fraction: bytes | None) -> int | None:
    """Return ns since midnight, or since the epoch when babeltrace2 printed seconds (--clock-seconds)."""
    if b":" not in time:
        return seconds_ns(time, fraction)
    hours, minutes, seconds = time[-8:].split(b":")
    return (int(hours) * 3600 + int(minutes) * 60 + int(seconds)) * 1_000_000_000 + int(fraction or b"0")


def odd(line: bytes) -> LostLine | str | None:
    """Read a line that is no event."""
    lost = _LOST.fullmatch(line)
    if lost is not None:
        return LostLine(-1, None if lost[1] is None else int(lost[1]))
    return NOTE if not line.strip() else None


CTF: Final = Dialect(FORMAT, "babeltrace2", _LINE, thread, fact, odd, time_ns)
