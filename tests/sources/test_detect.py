"""Formats are recognised by content; what is not read is named."""

import pytest
from strace_texts import EXCERPTS

from replay.errors import EmptyError, UnknownFormatError
from replay.sources.detect import detect

KNOWN = {
    "kvmr": b"\x89KVMR\r\n\x1a\x01\x00",
    "jsonl": b'{"kvm-replay": "recording/1", "title": "boot"}\n',
    "strace": b"27420 1795343273.24 ioctl(3, KVM_CREATE_VM, 0) = 4\n",
    "tracefs": b"         pdguest-15412   [000] ..... 1795341862.258277: sys_ioctl(fd: 3, cmd: 0xae01, arg: 0)\n",
    "lab": b'{"n":1,"op":"vm v","ret":0,"err":"0","kvm":{}}\n',
}
OTHERS = {
    "perf script": b"         pdguest 22410 [001]  1825.054486:        syscalls:sys_enter_ioctl: fd: 0x3, cmd: 0xae01\n",
    "perf trace": b"     0.221 ( 0.822 ms): pdguest/22463 ioctl(fd: 5, cmd: KVM_CREATE_VM)    = 0\n",
    "perf.data": b"PERFILE2\x68\x00",
    "trace.dat": b"\x17\x08\x44tracing6\x00",
    "trace-cmd report": b"cpus=2\n   pdguest-22760 [000]  1847.163267: kvm_mmu_get_page:     existing sp gfn 0 1 q0 direct\n",
    "raw trace-cmd": b"  pdguest-22760 [000]  1847.163267: kvm_mmu_get_page:      mmu_valid_gen=1 gfn=0 role=13697\n",
    "bpftrace output": b"Attaching 5 probes...\n1833300629332 22582 22582 pdguest IOCTL fd=4 cmd=ae01 arg=0 ret=5\n",
    "bpftrace JSON": b'{"type": "attached_probes", "data": {"probes": 5}}\n',
    "babeltrace": b"[00:30:25.054486248] (+?.?????????) syscalls:sys_enter_ioctl: { cpu_id = 1 }, { fd = 5 }\n",
    "syzkaller": b"r0 = openat$kvm(0xffffffffffffff9c, &(0x7f00)='/dev/kvm\\x00', 0x0, 0x0)\n",
    "a zip archive": b"PK\x03\x04rest",
}


class TestKnown:
    """What is read."""

    @pytest.mark.parametrize("name", KNOWN)
    def test_known(self, name: str) -> None:
        """Each format is recognised by its first bytes."""
        assert detect(KNOWN[name]) == name

    @pytest.mark.parametrize("name", sorted(path.name for path in EXCERPTS.glob("*.txt")))
    def test_every_excerpt(self, name: str) -> None:
        """Every recording by strace is recognised, whatever its options."""
        assert detect((EXCERPTS / name).read_bytes()) == "strace"

    def test_output_of_the_program_first(self) -> None:
        """Strace on a terminal mixes with the program's output: a line of strace further down is enough."""
        assert detect(b"Booting from Hard Disk...\nqemu: warning\n" + KNOWN["strace"]) == "strace"

    def test_windows_text(self) -> None:
        """A byte order mark and CRLF do not hide a format."""
        assert detect(b"\xef\xbb\xbf" + KNOWN["strace"].replace(b"\n", b"\r\n")) == "strace"


class TestOthers:
    """What is not read."""

    @pytest.mark.parametrize("name", OTHERS)
    def test_named(self, name: str) -> None:
        """The error says what the input seems to be, and what can be read."""
        with pytest.raises(UnknownFormatError, match=name) as caught:
            detect(OTHERS[name], name="x.bin")
        assert (caught.value.where, "strace text" in caught.value.expected) == ("x.bin", True)

    def test_unknown(self) -> None:
        """Anything else is shown by its first line, escaped."""
        with pytest.raises(UnknownFormatError, match=r"begins with 'hello \\x07'"):
            detect(b"\n\nhello \x07\nworld\n")

    @pytest.mark.parametrize("head", [b"", b" \n\n"])
    def test_empty(self, head: bytes) -> None:
        """Nothing is nothing to judge."""
        with pytest.raises(EmptyError):
            detect(head)
