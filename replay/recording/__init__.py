"""Keep recordings: the .kvmr container, its JSON Lines twin, and what both have in common.

`open_recording` reads either by its content; `Writer` and `JsonlWriter` write them. docs/format.md describes the files.
"""

from replay.recording.jsonl_reader import JsonlReader
from replay.recording.jsonl_writer import JsonlWriter
from replay.recording.open import open_recording
from replay.recording.reader import KvmrReader
from replay.recording.writer import Writer

__all__ = ["JsonlReader", "JsonlWriter", "KvmrReader", "Writer", "open_recording"]
