"""Write the table of docs/generate.md: `python tests/generate/generate_page.py` from the root of the project."""

import re
from pathlib import Path
from typing import Final

from replay.generate.measured import MEASURED, Measured
from replay.generate.profiles import PROFILES

PAGE: Final = Path(__file__).resolve().parent.parent.parent / "docs" / "generate.md"
MARKS: Final = re.compile(r"(?s)(<!-- measured -->\n).*(\n<!-- end -->)")


def value_text(row: Measured) -> str:
    """Return a row's number, or the first, the middle and the last of its quantiles."""
    if isinstance(row.value, int):
        return f"{row.value:,}"
    if len(row.value) < 3:
        return ", ".join(f"{number:,}" for number in row.value)
    return " / ".join(f"{number:,}" for number in (row.value[0], row.value[len(row.value) // 2], row.value[-1]))


def table() -> str:
    """Return the two tables: profiles and numbers."""
    lines = ["| profile | what | VMs at once | tdp | kernel |", "|---|---|---:|---|---|"]
    for profile in PROFILES:
        machine = profile.machine
        lines.append(
            f"| `{profile.name}` | {profile.title} | {profile.vms} | {'y' if machine.tdp else 'n'} | {machine.kernel_release} |"
        )
    lines += ["", "| what | value | capture | how |", "|---|---:|---|---|"]
    lines += [f"| {row.what} | {value_text(row)} | {row.capture or '-'} | {row.how} |" for row in MEASURED]
    return "\n".join(lines)


def page(text: str) -> str:
    """Return the page with the tables of today."""
    assert MARKS.search(text)
    return MARKS.sub(lambda match: match[1] + table() + match[2], text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
