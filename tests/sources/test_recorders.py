"""The recorder scripts print what the importers read."""

import re
from pathlib import Path

import pytest

from replay.sources.bpftrace_lines import LINE, fact
from replay.sources.dialects import AreaLine, KernelCall
from replay.sources.vmalloc_stacks import VmallocImport

FOLDER = Path(__file__).resolve().parent.parent.parent / "replay" / "recorders"
SAMPLES = {"%llu": "123", "%lld": "0", "%d": "7", "%s": "guest", "%llx": "8ab", "%x": "3702", "%ld": "0"}
PRINTF = re.compile(r'printf\("((?:[^"\\]|\\.)*)"')


def printed(script: str) -> list[str]:
    """Return a sample of each line that a script prints."""
    text = (FOLDER / script).read_text()
    found = [template.removesuffix("\\n") for template in PRINTF.findall(text)]
    return [re.sub(r"%(?:ll)?[dxuls]", lambda match: SAMPLES[match[0]], template) for template in found]


class TestKvmtrace:
    """The recorder of calls, pages and lives."""

    @pytest.mark.parametrize("line", printed("kvmtrace.bt"))
    def test_each_line_is_read(self, line: str) -> None:
        """Every printf of the script is a line that is understood."""
        match = LINE.match(line.encode())
        assert match is not None
        assert match["head"] == b"7 7 guest"
        assert fact(match["body"]) is not None

    def test_all_kinds(self) -> None:
        """It prints each kind that it is documented to print."""
        kinds = {line.split()[4] for line in printed("kvmtrace.bt")}
        assert kinds == {"ENTER", "IOCTL", "RUN", "CLOSE", "DUP", "FORK", "EXEC", "EXIT", "GETPAGE", "ZAP", "BEGIN"}

    @pytest.mark.parametrize("line", printed("kfunc.bt"))
    def test_each_line_of_kernel_probes_is_read(self, line: str) -> None:
        """Every printf of the probes on KVM's functions is a line that is understood."""
        match = LINE.match(line.encode())
        assert match is not None
        assert isinstance(fact(match["body"]), KernelCall)

    def test_lines_of_areas_are_read(self) -> None:
        """The two printfs of stacks.bt are an area that is taken, the stack behind its line, and one that is given back."""
        bodies = [match["body"] for match in map(LINE.match, (line.encode() for line in printed("stacks.bt"))) if match]
        assert [type(fact(body)) for body in bodies] == [AreaLine, AreaLine]
        assert [body.partition(b" ")[0] for body in bodies] == [b"VMAP", b"VFREE"]

    @pytest.mark.parametrize("script", ["kvmtrace.bt", "vmalloc.bt"])
    def test_maps_are_cleared(self, script: str) -> None:
        """Every map is cleared at the end: bpftrace would print what is left in them into the trace."""
        text = (FOLDER / script).read_text()
        assert set(re.findall(r"@(\w+)\[", text)) == set(re.findall(r"clear\(@(\w+)\)", text))


class TestVmalloc:
    """The recorder of allocations."""

    def test_each_line_is_read(self) -> None:
        """Every printf of the script is a line that is understood."""
        lines = [line.replace(" guest", "") for line in printed("vmalloc.bt")]
        assert len(lines) == 5
        stream = VmallocImport(lines, name="v.txt")
        assert [item.KIND for item in stream.items() if hasattr(item, "KIND")][:2] == ["vm.create", "memslot.set"]
        unknown = [counter.kind for counter in stream.trailer().counters if counter.severity == "unknown"]
        assert unknown == []
