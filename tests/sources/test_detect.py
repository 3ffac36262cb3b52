"""Formats are recognised by content; what is not read is named."""

import pytest
from strace_texts import EXCERPTS

from replay.errors import EmptyError, UnknownFormatError
from replay.sources.detect import FORMATS, detect

KNOWN: dict[str, bytes] = {
    "kvmr": b"\x89KVMR\r\n\x1a\x01\x00",
    "jsonl": b'{"kvm-replay": "recording/1", "title": "boot"}\n',
    "golden": b"kvm-replay golden/1\ntitle: boot\n",
    "strace": b"27420 1795343273.24 ioctl(3, KVM_CREATE_VM, 0) = 4\n",
    "tracefs": b"         pdguest-15412   [000] ..... 1795341862.258277: sys_ioctl(fd: 3, cmd: 0xae01, arg: 0)\n",
    "lab": b'{"n":1,"op":"vm v","ret":0,"err":"0","kvm":{}}\n',
    "perf script": b"         pdguest 22410 [001]  1825.054486:        syscalls:sys_enter_ioctl: fd: 0x3, cmd: 0xae01\n",
    "perf trace": b"     0.221 ( 0.822 ms): pdguest/22463 ioctl(fd: 5, cmd: KVM_CREATE_VM)    = 0\n",
    "trace-cmd report": b"  pdguest-22760 [000]  1847.163267: kvm_mmu_get_page:      mmu_valid_gen=1 gfn=0 role=13697\n",
    "bpftrace": b"1833300629332 22582 22582 pdguest IOCTL fd=4 cmd=ae01 arg=0 ret=5\n",
    "bpftrace json": b'{"type": "attached_probes", "data": {"probes": 5}}\n',
    "CTF text": b"[00:30:25.054486248] (+?.?????????) syscalls:sys_enter_ioctl: { cpu_id = 1 }, { fd = 5 }\n",
    "syzkaller": b"r0 = openat$kvm(0xffffffffffffff9c, &(0x7f00)='/dev/kvm\\x00', 0x0, 0x0)\n",
    "vmalloc stacks": b"\nAttaching 4 probes...\n2979808292612 31756 SETMEM fd=5 slot=0 flags=0 gpa=0x0 size=0x400000 hva=0x7f\n",
    "vmallocinfo": b"0xffffc90000000000-0xffffc90000005000   20480 irq_init_percpu_irqstack+0x9a/0xe0 vmap\n",
}
OTHERS = {
    "perf.data": b"PERFILE2\x68\x00",
    "trace.dat": b"\x17\x08\x44tracing6\x00",
    "a CTF trace": b"\xc1\x1f\xfc\xc1\x00",
    "a zip archive": b"PK\x03\x04rest",
}
HEADINGS = {
    "bpftrace": b"Attaching 5 probes...\n",
    "bpftrace json": b"",
    "trace-cmd report": b"cpus=2\n",
}


class TestKnown:
    """What is read."""

    @pytest.mark.parametrize("name", KNOWN)
    def test_known(self, name: str) -> None:
        """Each format is recognised by its first bytes."""
        assert detect(KNOWN[name]) == name

    def test_every_format(self) -> None:
        """Each format that there is has a sample here."""
        assert set(KNOWN) == set(FORMATS)

    @pytest.mark.parametrize("name", HEADINGS)
    def test_headings(self, name: str) -> None:
        """What a tool prints before its first event tells as well."""
        assert detect(HEADINGS[name] + KNOWN[name]) == name

    def test_plugin_text(self) -> None:
        """What trace-cmd's plugin prints is trace-cmd's, not tracefs's; its importer refuses it."""
        text = b"   pdguest-22760 [000]  1847.163267: kvm_mmu_get_page:     existing sp gfn 0 1 q0 direct\n"
        assert detect(text) == detect(b"cpus=2\n" + text) == "trace-cmd report"

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
