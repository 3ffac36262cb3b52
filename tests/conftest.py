"""Settle how property tests run: never judged by time; the same draws in CI, fresh ones elsewhere. Print what sweeps tried."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "kvm-replay",
    deadline=None,  # machines are shared: time says nothing about right or wrong
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",
)
settings.load_profile("kvm-replay")

pytest_plugins = ["sweep_figures"]
