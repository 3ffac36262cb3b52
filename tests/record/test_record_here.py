"""`record` with this machine's own tools and KVM, end to end; skips, with the reason, where they are not there.

Each promise is held for every source that works here: the small VMM (tests/record/small_vmm.py) says what it asked, and the
recording has to say the same. A QEMU boot is recorded by strace where QEMU is installed, with KVM_REPLAY_VMMS=1 by every source,
and gVisor as well; with KVM_REPLAY_KILLS=N everybody is killed N times under every source, and not one of them under two.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import pytest
from record_bench import ROOT, WAIT_SECONDS, Bench, instances, is_running, until

from replay.analyses.check import check
from replay.analyses.check_state import AREAS
from replay.cli import main
from replay.events import Mark, MemslotSet, Observe, VmCreate
from replay.record.abilities import SOURCES, Machine, Source
from replay.record.scripts import stacks_can_be_had
from replay.recording import Writer, open_recording

VMM = str(ROOT / "tests" / "record" / "small_vmm.py")
MACHINE = Machine()
KILLS = int(os.environ.get("KVM_REPLAY_KILLS", "0"))
VICTIMS = ("command", "recorder", "tracer")
ALWAYS = {("strace+tracefs", "recorder"), ("strace", "command")}
"""Who is killed in every run; bpftrace takes seconds to attach."""
KILLED = [
    (source, victim, seed)
    for source in SOURCES[:3]
    for victim in VICTIMS
    for seed in range(KILLS or ((source.name, victim) in ALWAYS))
]
LONG = os.environ.get("KVM_REPLAY_VMMS") == "1"
"""Whether to record a QEMU boot and gVisor by every source, and not only QEMU by strace."""


VMMS = {
    "qemu-system-x86_64": (9, ["-M", "pc", "-m", "256", "-accel", "kvm", "-display", "none", "-nodefaults", "-vga", "std"]),
    "runsc": (4, ["--rootless", "--network=none", "--platform=kvm", "do", "echo", "hi"]),
}
"""VMMs, each with how many memslot calls it makes at least, and its arguments."""


def why_not_here(source: Source) -> str:
    """Return why a source can not be tried here, "" when it can."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "/dev/kvm can not be opened"
    return MACHINE.why_not(source)


def with_of(source: Source) -> str:
    """Return the argument of --with that takes a source."""
    return "tracefs" if "tracefs" in source.name else source.name


@pytest.fixture
def source(request: pytest.FixtureRequest) -> Source:
    """Give a source, or skip with the reason why it can not be used here."""
    found: Source = request.param
    why = why_not_here(found)
    if why:
        pytest.skip(f"{found.name}: {why}")
    return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Give a folder to record in; nothing of a recorder may be left behind."""
    before = instances()
    made = Bench(tmp_path)
    yield made
    made.end()
    until(lambda: not set(instances()) - set(before))


def vmm(*numbers: int) -> list[str]:
    """Return the command line of the small VMM."""
    return [sys.executable, VMM, *map(str, numbers)]


def count(events: Sequence[object], **fields: object) -> int:
    """Count the successful memslot calls that have these fields."""
    calls = [event for event in events if isinstance(event, MemslotSet) and event.ret == 0]
    return sum(all(getattr(call, name) == value for name, value in fields.items()) for call in calls)


EACH = pytest.mark.parametrize("source", SOURCES[:3], indirect=True, ids=lambda source: source.name)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bench]:
    """Record the small VMM, which ends with status 7, once by each source that works here; by bpftrace with stacks."""
    found = {}
    command = ["sh", "-c", '"$@"; exit 7', "sh", *vmm(5, 200)]
    for source in (source for source in SOURCES[:3] if not why_not_here(source)):
        bench = found[source.name] = Bench(tmp_path_factory.mktemp("recorded"))
        words = ["--with", with_of(source), "--stacks", "--keep-traces", "--title", "small", "-o", "out.kvmr", "--"]
        assert bench.run(*words, *command) == 7, bench.errors
    return found


def without_observations(path: Path) -> Path:
    """Return a copy of a recording in which events have the numbers that they have without stacks."""
    copy = path.with_name("calls.kvmr")
    with open_recording(path) as stream, Writer(copy, stream.header) as writer:
        for item in stream.items():
            if not isinstance(item, Observe):
                writer.write(item)
        writer.finish(attrs.evolve(stream.trailer(), events=writer.events))
    return copy


class TestSmallVmm:
    """A VMM whose every call is known."""

    @EACH
    def test_is_recorded(self, source: Source, recorded: dict[str, Bench]) -> None:
        """Every call is there with its arguments; shadow pages come and go in pairs; nothing is lost; the status is kept."""
        bench = recorded[source.name]
        found = bench.recording()
        assert isinstance(found.events[-1], Mark)
        assert "command: exit status 7" in found.events[-1].text
        assert sum(isinstance(event, VmCreate) for event in found.events) == 1
        assert count(found.events) == 1 + 4 * 5
        assert count(found.events, slot=7, flags=0, guest_phys_addr=0x10000000, memory_size=1 << 20) == 5
        assert count(found.events, slot=7, memory_size=0) == 5
        assert [count(found.events, guest_phys_addr=0x20000000 + (number << 21)) for number in range(5)] == [1] * 5
        assert found.kinds.count("vm.destroy") == 1
        pages = found.kinds.count("shadow_page.account")
        assert pages == found.kinds.count("shadow_page.unaccount")
        assert (pages >= 200) == (source.name != "strace" and found.header.machine.tdp is False)
        assert found.trailer.total("lost") == found.trailer.total("unknown") == 0, found.trailer.counters

    def test_allocations(self, recorded: dict[str, Bench]) -> None:
        """With stacks what KVM took and gave back in each call, and of the whole VM in the end, is what the model says."""
        if "bpftrace" not in recorded or not stacks_can_be_had():
            pytest.skip(f"bpftrace: {why_not_here(SOURCES[0]) or 'no tracepoint of vmalloc areas (Linux 6.2)'}")
        with open_recording(recorded["bpftrace"].folder / "out.kvmr") as stream:
            report = check(stream)
        areas = next(facet for facet in report.facets if facet.name == AREAS)
        assert (areas.checked, areas.agreed) == (1 + 4 * 5 + 1, 1 + 4 * 5 + 1)
        assert (report.mismatch_count, report.doubtful, report.losses) == (0, 0, 0)

    def test_same_reports(self, recorded: dict[str, Bench], capsys: pytest.CaptureFixture[str]) -> None:
        """Sources that see the same, each in a run of its own, give recordings whose compare reports are equal."""
        names = [name for name in ("bpftrace", "strace+tracefs") if name in recorded]
        if len(names) < 2:
            pytest.skip(f"only {names or 'no source'} of those that see pages works here")
        reports = set()
        for name in names:
            path = without_observations(recorded[name].folder / "out.kvmr")
            status = main(["compare", str(path), "--profile", "release=6.8,config=y,tdp=0"])
            reports.add((status, capsys.readouterr().out))
        assert [status for status, _text in reports] == [0]


class TestKills:
    """SIGKILL at moments that nobody chose."""

    @pytest.mark.parametrize(
        ("source", "victim", "seed"), KILLED, indirect=["source"], ids=lambda value: getattr(value, "name", value)
    )
    def test_readable_and_clean(self, source: Source, bench: Bench, victim: str, seed: int) -> None:
        """What was recorded is readable, and called cut when it is; no process, no instance is left."""
        dice = random.Random(seed)
        command = ["sh", "-c", f"echo $$ >number; exec {sys.executable} {VMM} 30000 0"]
        recorder = bench.start("--with", with_of(source), "-o", "out.kvmr", "--", *command)
        number = bench.number_in("number")
        time.sleep(dice.random())
        tools = tracers(recorder.pid)
        assert victim != "tracer" or tools
        target = {"recorder": recorder.pid, "command": number}.get(victim) or dice.choice(tools)
        os.kill(target, signal.SIGKILL)
        status = recorder.wait(WAIT_SECONDS)
        until(lambda: not is_running(number) and not any(map(is_running, tools)))
        if victim == "recorder":
            assert bench.recording("out.kvmr.part").torn
            assert main(["recover", str(bench.folder / "out.kvmr.part"), "-o", str(bench.folder / "saved.kvmr")]) == 3
            return
        found = bench.recording()
        assert not found.torn
        if victim == "command":
            assert status == 128 + signal.SIGKILL
            assert found.trailer.total("lost") == 0, found.trailer.counters
        else:
            assert found.trailer.total("lost") >= 1
            assert "lost" in found.kinds


class TestEndless:
    """A KVM_RUN that never returns."""

    @pytest.mark.parametrize("source", SOURCES[1:2], indirect=True, ids=lambda source: source.name)
    def test_texts_do_not_wait(self, source: Source, bench: Bench) -> None:
        """Its pages wait for a line of strace that does not come; with the recorder killed, the texts have them all the same."""
        recorder = bench.start("--with", with_of(source), "-o", "out.kvmr", "--", *vmm(2, -1))
        text, part = bench.folder / "out.kvmr.traces" / "ftrace.txt", bench.folder / "out.kvmr.part"
        until(lambda: part.exists() and "KVM_SET_REGS" in (text.parent / "strace.txt").read_text())
        pages_wanted = 500 * (bench.recording(part.name).header.machine.tdp is False)
        until(lambda: text.read_bytes().count(b": kvm_mmu_get_page: ") >= pages_wanted)
        recorder.kill()
        recorder.wait(WAIT_SECONDS)
        assert "shadow_page.account" not in bench.recording(part.name).kinds
        assert main(["import", str(text.parent), "-o", str(bench.folder / "again.kvmr")]) == 0
        again = bench.recording("again.kvmr")
        assert count(again.events) == 1 + 4 * 2
        assert again.kinds.count("shadow_page.account") >= pages_wanted // 4  # half of them are hits, or direct


def tracers(pid: int) -> list[int]:
    """List the tools that a recorder runs."""
    found = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(pid)], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in found.splitlines() if line.split()[1] in {"strace", "bpftrace", "cat"}]


class TestAttached:
    """--pid, on a VMM that runs already."""

    @pytest.mark.parametrize(
        "source", [SOURCES[2], *SOURCES[: 2 * bool(KILLS)]], indirect=True, ids=lambda source: getattr(source, "name", source)
    )
    def test_vmm_lives_on(self, source: Source, bench: Bench) -> None:
        """Its calls are recorded until SIGINT; that its VM was there before is said; the VMM goes on."""
        watched = subprocess.Popen(vmm(10_000_000, 0), stdout=subprocess.DEVNULL)
        try:
            recorder = bench.start("--with", with_of(source), "-o", "out.kvmr", "--pid", str(watched.pid))
            part = bench.folder / "out.kvmr.part"
            until(lambda: part.exists() and count(bench.recording(part.name).events) > 100)
            recorder.send_signal(signal.SIGINT)
            assert recorder.wait(WAIT_SECONDS) == 0, bench.errors
            assert watched.poll() is None
        finally:
            watched.kill()
            watched.wait()
        found = bench.recording()
        assert not found.header.complete_start
        assert found.kinds.count("vm.attach") == 1
        assert count(found.events, slot=7, guest_phys_addr=0x10000000, memory_size=1 << 20) > 25


class TestStale:
    """What a recorder leaves that could not clean up, and whose watchdog could not either."""

    def test_instance_of_a_dead_recorder(self, bench: Bench) -> None:
        """It is removed by the next run."""
        from replay.record.tracefs import mount_point

        why = why_not_here(SOURCES[1])
        root = mount_point()
        if why or root is None:
            pytest.skip(f"tracefs: {why}")
        stale = root / "instances" / "kvm-replay-4194303-12345"
        stale.mkdir()
        assert bench.run("--with", "tracefs", "-o", "out.kvmr", "--", "true") == 0
        assert not stale.exists()


class TestVmms:
    """Real VMMs."""

    @EACH
    @pytest.mark.parametrize("program", VMMS)
    def test_is_recorded(self, source: Source, bench: Bench, program: str, capsys: pytest.CaptureFixture[str]) -> None:
        """A boot is recorded with nothing lost or not understood; the kernel did what its model says; eager costs bytes only.

        gVisor's first KVM_RUN does not return where the host has no virtualization of its own (its guest takes faults without
        end, recorded or not), so that it is killed; elsewhere it ends by itself.
        """
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
        if not LONG and (with_of(source), program) != ("strace", "qemu-system-x86_64"):
            pytest.skip("half a minute: set KVM_REPLAY_VMMS=1")
        calls, words = VMMS[program]
        status = bench.run("--with", with_of(source), "-o", "out.kvmr", "--", "timeout", "-s", "KILL", "8", program, *words)
        found = bench.recording()
        ends = program == "runsc" and found.header.machine.vendor != "pvm"
        assert status == (0 if ends else 128 + signal.SIGKILL)
        assert count(found.events) >= calls
        assert found.trailer.total("lost") == found.trailer.total("unknown") == 0, found.trailer.counters
        with open_recording(bench.folder / "out.kvmr") as stream:
            report = check(stream)
        assert (report.mismatch_count, report.checked >= calls) == (0, True)
        assert main(["compare", str(bench.folder / "out.kvmr"), "--profile", "release=6.8,config=y,tdp=1"]) == 1
        assert capsys.readouterr().out.startswith("verdict: divergence, bytes-only\n")
