"""Write one made-up run as each of the tools would print it that print role words."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from run_texts import BASE_NS, STEP_NS, TGIDS, Enter, Exit, Imported, Item, Page, Raw

from replay.runs import events_of
from replay.sources import ioctls
from replay.sources.dialect_table import DIALECTS
from replay.sources.word_walk import WordImport

PAGE_ROLE: Final = 0x3700
U64: Final = (1 << 64) - 1


def role_word(page: Page) -> int:
    """Return the role word of a page."""
    return PAGE_ROLE | page.level | page.direct << 7 | page.invalid << 11


def _fields(page: Page, form: str) -> str:
    created = f" created={int(not page.existing)}" if page.made else ""
    if form == "raw":
        return f"mmu_valid_gen=0 gfn={page.gfn} role={role_word(page)} root_count=0 unsync=0{created}"
    if form == "bpftrace":
        return f"gfn={page.gfn:x} role={role_word(page):x}{created}"
    word = created.replace("=", " = ")
    tail = f",{word}" if page.made else ""
    return f"mmu_valid_gen = 0, gfn = {page.gfn}, role = {role_word(page)}, root_count = 0, unsync = 0{tail}"


def in_time(lines: Iterable[str], start_ns: int = 1000) -> list[str]:
    """Return bpftrace lines with times of their own, in the order in which they stand."""
    return [f"{start_ns + 10 * place} {line.partition(' ')[2]}" for place, line in enumerate(lines)]


def _event(page: Page) -> str:
    return "kvm_mmu_get_page" if page.made else "kvm_mmu_prepare_zap_page"


def _ioctl_lines(items: Sequence[Item], place: int) -> Enter | None:
    """Return the entry that an exit belongs to."""
    exit_ = items[place]
    assert isinstance(exit_, Exit)
    before = [item for item in items[:place] if isinstance(item, Enter) and item.tid == exit_.tid]
    return before[-1] if before else None


def bpftrace_text(items: Sequence[Item]) -> str:
    """Return a run as the bpftrace recorder prints it: calls at their exits, memslots at their entries as well."""
    lines = ["Attaching 5 probes..."]
    for place, item in enumerate(items):
        if isinstance(item, Raw):
            lines.append(item.text.decode())
            continue
        if not isinstance(item, Enter | Exit | Page):
            continue
        start = f"{BASE_NS + place * STEP_NS} {TGIDS.get(item.tid, item.tid)} {item.tid} my guest "
        body = _bpftrace_body(items, place)
        if body:
            lines.append(start + body)
    return "".join(line + "\n" for line in lines)


def _bpftrace_body(items: Sequence[Item], place: int) -> str:
    item = items[place]
    if isinstance(item, Page):
        return f"{'GETPAGE' if item.made else 'ZAP'} {_fields(item, 'bpftrace')}"
    if isinstance(item, Exit):
        enter = _ioctl_lines(items, place)
        if enter is None or enter.cmd == ioctls.KVM_RUN:
            return ""
        return f"IOCTL fd={enter.fd} cmd={enter.cmd:x} arg={enter.value:x} ret={item.ret or 0}"
    assert isinstance(item, Enter)
    if item.cmd == ioctls.KVM_RUN:
        return f"RUN fd={item.fd}"
    if item.cmd != ioctls.KVM_SET_USER_MEMORY_REGION:
        return ""
    from replay.sources.strace_args import region_of

    region = region_of(item.arg)
    assert region is not None
    names = (
        ("slot", "slot"),
        ("flags", "flags"),
        ("gpa", "guest_phys_addr"),
        ("size", "memory_size"),
        ("hva", "userspace_addr"),
    )
    return f"MEMSLOT fd={item.fd} " + " ".join(f"{name}={region[field]:x}" for name, field in names)


def json_text(items: Sequence[Item]) -> str:
    """Return a run as `bpftrace -f json` prints it."""
    lines = bpftrace_text(items).splitlines()[1:]
    head = '{"type": "attached_probes", "data": {"probes": 5}}\n'
    return head + "".join(f'{{"type": "printf", "data": "{line}\\n"}}\n' for line in lines)


def _events(items: Sequence[Item], line: Callable[[Enter | Exit | Page, int, str], str], page: Callable[[Page], str]) -> str:
    lines = []
    for place, item in enumerate(items):
        if isinstance(item, Raw):
            lines.append(item.text.decode())
        elif isinstance(item, Enter):
            body = f"sys_enter_ioctl: fd: {item.fd:#010x}, cmd: {item.cmd:#010x}, arg: {item.value:#010x}"
            lines.append(line(item, place, body))
        elif isinstance(item, Exit):
            lines.append(line(item, place, f"sys_exit_ioctl: {(item.ret or 0) & U64:#x}"))
        elif isinstance(item, Page):
            lines.append(line(item, place, page(item)))
    return "".join(text + "\n" for text in lines)


def _clock(place: int, digits: int) -> str:
    ns = BASE_NS + place * STEP_NS
    return f"{ns // 10**9}.{ns % 10**9:09d}"[: 11 + digits]


def perf_text(items: Sequence[Item], *, digits: int = 6, pid: bool = False) -> str:
    """Return a run as perf script prints it; digits: 6, or 9 with --ns. pid: with -F +pid."""

    def line(item: Enter | Exit | Page, place: int, body: str) -> str:
        task = f"{TGIDS.get(item.tid, item.tid)}/{item.tid}" if pid else f"{item.tid:5d}"
        system = "syscalls" if body.startswith("sys_") else "kvmmmu"
        return f"{'my guest':>16s} {task} [001] {_clock(place, digits)}: {system + ':' + body}"

    return _events(items, line, lambda page: f"{_event(page)}: [FAILED TO PARSE] {_fields(page, 'raw')}")


def report_text(items: Sequence[Item], *, raw: bool = True) -> str:
    """Return a run as trace-cmd report -R prints it, or -N when not raw."""

    def line(item: Enter | Exit | Page, place: int, body: str) -> str:
        return f"{'my-guest [1]':>26s}-{item.tid:<5d} [000] {_clock(place, 6)}: {body}"

    mark = " " if raw else "[FAILED TO PARSE] "
    return "cpus=2\n" + _events(items, line, lambda page: f"{_event(page)}:      {mark}{_fields(page, 'raw')}")


def ctf_text(items: Sequence[Item], *, lttng: bool = False) -> str:
    """Return a run as babeltrace2 --clock-seconds prints it, made by perf or by LTTng."""
    lines = []
    for place, item in enumerate(items):
        if not isinstance(item, Enter | Exit | Page):
            lines += [item.text.decode()] if isinstance(item, Raw) else []
            continue
        event, fields = _ctf_event(item, lttng=lttng)
        tgid = TGIDS.get(item.tid, item.tid)
        context = (
            f'pid = {tgid}, tid = {item.tid}, procname = "guest"'
            if lttng
            else f"perf_ip = 0xFF, perf_tid = {item.tid}, perf_pid = {tgid}"
        )
        host = "myhost " if lttng else ""
        middle = "}, {" if lttng else ", perf_id = 1,"
        lines.append(f"[{_clock(place, 9)}] (+0.000100000) {host}{event}: {{ cpu_id = 1 }}, {{ {context} {middle} {fields} }}")
    return "".join(line + "\n" for line in lines)


def _ctf_event(item: Enter | Exit | Page, *, lttng: bool) -> tuple[str, str]:
    if isinstance(item, Page):
        return ("" if lttng else "kvmmmu:") + _event(item), _fields(item, "ctf")
    half = "entry" if isinstance(item, Enter) else "exit"
    event = f"syscall_{half}_ioctl" if lttng else f"syscalls:sys_{half.replace('entry', 'enter')}_ioctl"
    if isinstance(item, Enter):
        return event, f"fd = {item.fd}, cmd = {item.cmd}, arg = {item.value}"
    return event, f"ret = {item.ret or 0}"


def perf_trace_text(items: Sequence[Item]) -> str:
    """Return a run as perf trace prints it: a call at its exit, in two parts when something happened in between."""
    lines = []
    for place, item in enumerate(items):
        if isinstance(item, Raw):
            lines.append(item.text.decode())
        elif isinstance(item, Enter):
            if not _returns_at_once(items, place):
                lines.append(f"{_ms(place)} (         ): guest/{item.tid} {_perf_call(item):70s} ...")
        elif isinstance(item, Exit):
            lines.append(_perf_exit(items, place))
        elif isinstance(item, Page):
            fields = {"gfn": item.gfn, "role": role_word(item), "created": int(item.made and not item.existing)}
            text = ", ".join(f"{name}: {number}" for name, number in fields.items() if number)
            lines.append(f"{_ms(place)} (         ): guest/{item.tid} kvmmmu:{_event(item)}({text})")
    return "".join(line + "\n" for line in lines)


def _returns_at_once(items: Sequence[Item], place: int) -> bool:
    after = items[place + 1] if place + 1 < len(items) else None
    item = items[place]
    return isinstance(after, Exit) and isinstance(item, Enter) and after.tid == item.tid


def _perf_exit(items: Sequence[Item], place: int) -> str:
    item = items[place]
    assert isinstance(item, Exit)
    ret = "-1 EINVAL (Invalid argument)" if item.ret == -22 else str(item.ret or 0)
    if place and _returns_at_once(items, place - 1):
        enter = items[place - 1]
        assert isinstance(enter, Enter)
        return f"{_ms(place - 1)} ( 0.100 ms): guest/{item.tid} {_perf_call(enter):70s} = {ret}"
    return f"{_ms(place - 1)} ( 0.100 ms): guest/{item.tid}  ... [continued]: ioctl())              = {ret}"


def _perf_call(item: Enter) -> str:
    arg = f", arg: {item.value:#x}" if item.value else ""
    return f"ioctl(fd: {item.fd}, cmd: {ioctls.ioctl_name(item.cmd)}{arg})"


def _ms(place: int) -> str:
    return f"{place * STEP_NS // 10**6:6d}.{place * STEP_NS // 1000 % 1000:03d}"


RENDERERS: Final[dict[str, tuple[str, Callable[[Sequence[Item]], str]]]] = {
    "bpftrace": ("bpftrace", bpftrace_text),
    "bpftrace json": ("bpftrace json", json_text),
    "perf script": ("perf script", perf_text),
    "perf script --ns -F +pid": ("perf script", lambda items: perf_text(items, digits=9, pid=True)),
    "trace-cmd report -R": ("trace-cmd report", report_text),
    "trace-cmd report -N": ("trace-cmd report", lambda items: report_text(items, raw=False)),
    "CTF of perf": ("CTF text", ctf_text),
    "CTF of LTTng": ("CTF text", lambda items: ctf_text(items, lttng=True)),
    "perf trace": ("perf trace", perf_trace_text),
}
"""Way of printing -> format as it is recognised, and who prints it."""


def imported_words(text: bytes | str, name: str) -> Imported:
    """Import the text of one dialect alone."""
    data = text.encode() if isinstance(text, str) else text
    stream = WordImport([data], DIALECTS[name], name="trace.txt")
    return Imported(list(events_of(stream.items())), stream.trailer())


def imported_lines(lines: Iterable[str], name: str) -> Imported:
    """Import lines of one dialect alone."""
    return imported_words("".join(line + "\n" for line in lines), name)
