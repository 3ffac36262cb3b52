"""Fuzz one target with atheris: `python tests/fuzz/fuzz.py TARGET [FOLDER] [libFuzzer options]`; see README.md here."""

import sys
import tempfile
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS / "recording"), str(TESTS / "fuzz")]


def main(arguments: list[str]) -> None:
    """Fuzz until stopped or as long as the options say; seeds are laid beside the folder's own inputs."""
    import atheris

    with atheris.instrument_imports(include=["replay"]):
        from fuzz_seeds import seeds
        from fuzz_targets import TARGETS
    if not arguments or arguments[0] not in TARGETS:
        sys.exit(f"usage: fuzz.py {'|'.join(TARGETS)} [FOLDER] [libFuzzer options]")
    name, *rest = arguments
    folder = Path(tempfile.mkdtemp(prefix=f"seeds-{name}-"))
    for number, data in enumerate(seeds(name)):
        (folder / f"{number:03}").write_bytes(data)
    atheris.Setup([sys.argv[0], *rest, str(folder)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
