"""Split strace text into records: the grammar of lines, and the joining of split calls. Interface; filled in next."""

from collections.abc import Iterable, Iterator

from replay.sources.syscalls import Record


class StraceLexer:
    """Iterate over the records of strace text, in order of lines; see `replay.sources.syscalls` for what is given twice.

    Every ioctl is given, and every call that can change a task or an fd; others (read, futex, ...) are passed over.
    lines: text lines. tid: of all lines when they carry none (no -f, or one file of -ff). file: index into the sources.
    """

    def __init__(self, lines: Iterable[str], *, tid: int = 0, file: int = 0) -> None:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Record]:
        raise NotImplementedError
