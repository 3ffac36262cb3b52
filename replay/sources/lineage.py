"""Find out who made whom: the first pass over a strace recording.

A thread's lines often come before the line that names it (`<... clone3 resumed> = TID`), and inside a pid namespace the
printed number is not the thread's. So the first pass gathers all calls that make tasks, and all tasks that appear.
"""

import attrs


@attrs.define
class Birth:
    """How a task came to be: made by `parent` with these CLONE_ flags, seen first at a line."""

    tid: int
    parent: int
    thread: bool = False
    shares_vm: bool = False
    shares_files: bool = False
    inferred: bool = False


@attrs.define
class Lineage:
    """Births by tid, and what the first pass learned of the recording as a whole."""

    births: dict[int, Birth] = attrs.field(factory=dict)
