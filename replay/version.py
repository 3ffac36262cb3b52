"""Hold the version once; pyproject.toml carries the same text and a test holds the two together.

A constant, because asking the installed metadata for it costs more than the rest of `kvm-replay --version`.
"""

from typing import Final

VERSION: Final = "0.1.0"
