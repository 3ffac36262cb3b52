"""Put the compiled loop over hot rows into the wheel, where it can be compiled; else the wheel is pure Python."""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "replay" / "native"))
from build import build


class RowsHook(BuildHookInterface[Any]):
    """The build hook of pyproject.toml."""

    folder = ""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the wheel is packed."""
        if self.target_name != "wheel" or version == "editable":
            return
        self.folder = tempfile.mkdtemp()
        made = build(Path(self.folder))
        if made is not None:
            build_data["force_include"][str(made)] = made.name
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    def finalize(self, *_of_build: object) -> None:
        """Forget what was compiled, once it is packed."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
