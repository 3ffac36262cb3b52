"""Test recordings with pytest: golden files are collected as tests, `kvm_replay` is a fixture for tests in code.

It does nothing until a project has a table [tool.kvm-replay], an option asks for it, or a test takes the fixture; until then it
costs a look at pyproject.toml. docs/goldens.md says how to use it.
"""

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from replay.pytest_plugin.fixture import KvmReplay
    from replay.pytest_plugin.settings import Settings

TABLE: Final = "kvm-replay"
NAME: Final = "kvm_replay_goldens"
"""Name under which the part that collects is registered, where it is wanted."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; nothing of this project is imported for that."""
    group = parser.getgroup("kvm-replay", "recordings of KVM events and their golden files")
    group.addoption("--kvm-goldens", action="store_true", help="collect golden files (NAME.golden) as tests")
    group.addoption("--kvm-update", action="store_true", help="write golden files anew where they say something else; not in CI")
    group.addoption("--kvm-update-new-only", action="store_true", help="write golden files that are missing; not in CI")


def pytest_configure(config: pytest.Config) -> None:
    """Switch the collecting part on where it is configured or asked for. Raises UsageError for a wrong table or option."""
    update = [name for name in ("--kvm-update", "--kvm-update-new-only") if config.getoption(name)]
    if update and os.environ.get("CI"):
        raise pytest.UsageError(f"{update[0]} is refused because CI is set: golden files are reviewed, not made there")
    table = _table(config.rootpath / "pyproject.toml")
    if table is None and not update and not config.getoption("--kvm-goldens"):
        return
    from replay.pytest_plugin.goldens import Goldens

    config.pluginmanager.register(Goldens(_settings(config, table)), NAME)


def _table(path: Path) -> dict[str, Any] | None:
    """Return the project's table, None when it has none."""
    try:
        text = path.read_bytes()
    except OSError:
        return None
    if b"tool.kvm-replay" not in text:
        return None
    try:
        found = tomllib.loads(text.decode()).get("tool", {}).get(TABLE)
    except ValueError:
        return None  # pytest itself has more to say about such a file
    return found if isinstance(found, dict) else None


def _settings(config: pytest.Config, table: dict[str, Any] | None) -> "Settings":
    from replay.errors import KvmReplayError
    from replay.pytest_plugin.settings import settings_of

    try:
        return settings_of(
            table or {},
            config.rootpath,
            update=config.getoption("--kvm-update"),
            new_only=config.getoption("--kvm-update-new-only"),
        )
    except KvmReplayError as error:
        raise pytest.UsageError(f"pyproject.toml, [tool.{TABLE}]: {error}") from None


@pytest.fixture
def kvm_replay(request: pytest.FixtureRequest) -> "KvmReplay":
    """Replay recordings in a test: `assert kvm_replay("boot.kvmr") == kvm_replay.golden("boot.kvmr")`."""
    from replay.pytest_plugin.fixture import KvmReplay

    plugin = request.config.pluginmanager.get_plugin(NAME)
    settings = plugin.settings if plugin is not None else _settings(request.config, None)
    return KvmReplay(request.path.parent, settings, request.node.user_properties)


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Say of a replay that is not its golden file what differs, place by place."""
    if op != "==" or not any(type(side).__module__.startswith(f"{__name__}.") for side in (left, right)):
        return None
    from replay.pytest_plugin.fixture import explained

    return explained(left, right)
