"""Write events as a CTF trace, for babeltrace2 to read. Source: the Common Trace Format, version 1.8 (diamon.org/ctf)."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

MAGIC: Final = 0xC1FC1FC1
PACKET_EVENTS: Final = 20_000
_EVENT: Final = struct.Struct("<HQIiQQ")
"""Kind and time; VM, memslot, its pages, gfn."""
_PACKET: Final = struct.Struct("<IIQQQQ")
_METADATA: Final = """/* CTF 1.8 */
typealias integer { size = 16; align = 8; signed = false; } := uint16_t;
typealias integer { size = 32; align = 8; signed = false; } := uint32_t;
typealias integer { size = 32; align = 8; signed = true; } := int32_t;
typealias integer { size = 64; align = 8; signed = false; base = 16; } := uint64_t;
trace { major = 1; minor = 8; byte_order = le; packet.header := struct { uint32_t magic; uint32_t stream_id; }; };
clock { name = "monotonic"; freq = 1000000000; };
typealias integer { size = 64; align = 8; signed = false; map = clock.monotonic.value; } := stamp_t;
stream {
    id = 0;
    packet.context := struct {
        uint64_t content_size; uint64_t packet_size; stamp_t timestamp_begin; stamp_t timestamp_end;
    };
    event.header := struct { uint16_t id; stamp_t timestamp; };
};
"""
_OF_EVENT: Final = """event {{
    name = "{name}"; id = {number}; stream_id = 0;
    fields := struct {{ uint32_t vm; int32_t slot; uint64_t pages; uint64_t gfn; }};
}};
"""

Row = tuple[int, int | None, str, int, int | None, int | None, int | None]


def write_ctf(folder: Path, rows: Sequence[Row]) -> Path:
    """Write rows (number, time in ns, kind, VM, memslot, pages, gfn) as a trace of one stream; return its folder."""
    folder.mkdir()
    kinds = {kind: number for number, kind in enumerate(sorted({row[2] for row in rows}))}
    events = "".join(_OF_EVENT.format(name=kind, number=number) for kind, number in kinds.items())
    (folder / "metadata").write_text(_METADATA + events)
    time_ns = 0
    with (folder / "stream").open("wb") as out:
        for first in range(0, len(rows), PACKET_EVENTS):
            begin_ns, packed = time_ns, []
            for _number, at_ns, kind, vm, slot, pages, gfn in rows[first : first + PACKET_EVENTS]:
                time_ns = max(time_ns, at_ns or 0)
                packed.append(_EVENT.pack(kinds[kind], time_ns, vm, -1 if slot is None else slot, pages or 0, gfn or 0))
            data = b"".join(packed)
            bits = 8 * (_PACKET.size + len(data))
            out.write(_PACKET.pack(MAGIC, 0, bits, bits, begin_ns, time_ns) + data)
    return folder
