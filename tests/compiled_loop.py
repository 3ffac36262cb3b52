"""Compile the loop over hot rows as it is in the checkout, once a session, whatever is installed.

KVM_REPLAY_TESTED_LOOP names one that is to be tested instead: see native/sanitized.py.
"""

import importlib.util
import os
import sysconfig
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from replay.native.build import MODULE, build, compiler


@cache
def loop() -> Any:
    """Return the loop's module; the test is skipped where there is no C compiler."""
    if not compiler():
        pytest.skip("no C compiler, or no header of Python")
    given = os.environ.get("KVM_REPLAY_TESTED_LOOP")
    made = Path(given) if given else build(Path(tempfile.mkdtemp(prefix="kvm-replay-rows-")))
    assert made is not None, "rows.c does not compile"
    assert made.name == MODULE + str(sysconfig.get_config_var("EXT_SUFFIX"))
    spec = importlib.util.spec_from_file_location(MODULE, made)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
