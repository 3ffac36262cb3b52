"""Look for the compiled loop, once, when Python starts to use this package; the only place that asks the environment for it."""

import os
from importlib import import_module
from typing import Any, Final

MODULE: Final = "_kvm_replay_rows"
API: Final = 5
"""Arguments and results of the loop that kvm/compiled.py knows; rows.c says the same number."""
PURE: Final = "KVM_REPLAY_PURE"
"""Variable that leaves the loop out when it is neither empty nor 0; results are the same."""


def find_loop(environment: Any = os.environ) -> Any:
    """Return the module with the loop, None where it was not built, is of another version, or is not wanted.

    >>> find_loop({"KVM_REPLAY_PURE": "1"}) is None
    True
    """
    if environment.get(PURE, "") not in {"", "0"}:
        return None
    try:
        module = import_module(MODULE)
    except ImportError:
        return None
    return module if getattr(module, "API", 0) == API else None


LOOP: Final = find_loop()
