"""List the dialects by the names that `replay.sources.detect` gives them."""

from typing import Final

from replay.sources.bpftrace_lines import BPFTRACE, BPFTRACE_JSON
from replay.sources.ctf_lines import CTF
from replay.sources.dialects import Dialect
from replay.sources.perf_lines import REPORT, SCRIPT, TRACE

DIALECTS: Final[dict[str, Dialect]] = {dialect.name: dialect for dialect in (BPFTRACE, BPFTRACE_JSON, SCRIPT, REPORT, CTF, TRACE)}
"""Format -> dialect, the one that says most first: of several traces of one run, the first one's pages are taken."""
