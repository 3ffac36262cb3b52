"""Write docs/errors.md from the error classes: `python tests/docs/errors_page.py > docs/errors.md`."""

import sys

from replay.errors import KvmReplayError, catalogue

INTRODUCTION = """\
# Errors

Every complaint about input is one line on standard error, and the exit status is 2:

```
kvm-replay: KVR101 damaged recording: boot.kvmr, block 3 at byte 9120: what was found; expected what. What to do
```

The code is stable across releases: a script may look at it. In the library each code is a class of `replay.errors`, all of
them under `KvmReplayError`. What a trace holds and this tool does not understand is no error: it is counted, said on standard
error, and kept in the recording (`kvm-replay info` lists it).

This page is generated from the classes; a test holds the two together.
"""


def errors_page(classes: list[type[KvmReplayError]]) -> str:
    """Return the page: a table of the codes, then a section for each."""
    rows = [f"| [{cls.code}](#{cls.code.lower()}) | {cls.title} | `{cls.__name__}` |" for cls in classes]
    return "\n".join([INTRODUCTION, "| code | title | class |", "|---|---|---|", *rows, "", *map(_section, classes)])


def _section(cls: type[KvmReplayError]) -> str:
    parent = cls.__bases__[0]
    kind = f" A kind of [{parent.code}](#{parent.code.lower()})." if issubclass(parent, KvmReplayError) else ""
    return f"## {cls.code}\n\n**{cls.title}.** {meaning(cls)}{kind}\n\nWhat to do: {cls.remedy}\n"


def meaning(cls: type[KvmReplayError]) -> str:
    """Return the first sentence of a class, as one line."""
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


if __name__ == "__main__":
    sys.stdout.write(errors_page(catalogue()))
