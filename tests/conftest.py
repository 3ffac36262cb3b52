"""Settle how tests run, wherever they are started.

Property tests are never judged by time; they draw the same in CI, fresh numbers elsewhere. What sweeps tried is printed. A shell
starts background jobs with SIGINT ignored, nohup all with SIGHUP ignored, and children inherit that: the programs under test get
both as on a terminal, while a run of the tests under nohup goes on without its terminal.

Tests have no compiled loop over hot rows, whether one is installed or not, but those that ask for it: see compiled_loop.py. What
they show of the other rules would be shown of the loop instead.
"""

import os
import signal

from hypothesis import HealthCheck, settings

os.environ.setdefault("KVM_REPLAY_PURE", "1")

settings.register_profile(
    "kvm-replay",
    deadline=None,  # machines are shared: time says nothing about right or wrong
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",
)
settings.load_profile("kvm-replay")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda _signal, _frame: None)  # a handler is not inherited by programs, an ignored signal is

pytest_plugins = ["sweep_figures"]
