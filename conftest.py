"""Give the project its own pytest plugin when it is tested from a checkout, where no installed package brings it."""

import pytest

from replay import pytest_plugin


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the plugin under the name of its entry point, unless that has done so."""
    if not pluginmanager.has_plugin("kvm_replay"):
        pluginmanager.register(pytest_plugin, "kvm_replay")
