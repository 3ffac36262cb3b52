"""`record` with tools that print captured text: the order of things, exit status, signals, kills."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from record_bench import BPFTRACE, DATA, REFUSED, STRACE, Bench, is_running, until

from replay.cli import main
from replay.events import Lost, Mark
from replay.record.abilities import SOURCES, tracefs_ability

CALLS = """\
100 1795341862.100000 openat(AT_FDCWD, "/dev/kvm", O_RDWR|O_CLOEXEC) = 3</dev/kvm>
100 1795341862.200000 ioctl(3</dev/kvm>, KVM_CREATE_VM, 0) = 4<anon_inode:kvm-vm>
100 1795341862.300000 ioctl(4<anon_inode:kvm-vm>, KVM_SET_USER_MEMORY_REGION, \
{slot=0, flags=0, guest_phys_addr=0, memory_size=4096, userspace_addr=0x7f0000000000}) = 0
"""
PAGES = """\
1100 100 100 guest IOCTL fd=3 cmd=ae01 arg=0 ret=4
1200 100 100 guest ENTER fd=4 cmd=4020ae46 arg=7ff w=0,0,100000,7f160171a000,0,0
1300 100 100 guest IOCTL fd=4 cmd=4020ae46 arg=7ff ret=0
1350 100 100 guest RUN fd=5
1400 100 100 guest GETPAGE gfn=1 role=3704 created=1
1500 100 100 guest ZAP gfn=1 role=3704
"""
SLEEPER = 'echo $$ >number; trap "exit 9" TERM; while :; do sleep 0.05; done'


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Give a bench with a strace that prints a VM and a slot, and a bpftrace that prints two pages as well."""
    made = Bench(tmp_path, {"strace": STRACE, "bpftrace": BPFTRACE}, CALLS)
    yield made
    made.end()


class TestSources:
    """Which source is taken, and what is said of it."""

    def test_strace(self, bench: Bench) -> None:
        """The recording holds the calls, the tools with their versions, and how the command ended; no text stays."""
        assert bench.run("--with", "strace", "-o", "out.kvmr", "--", "sh", "-c", "exit 3") == 3
        found = bench.recording()
        assert found.kinds == ["vm.create", "memslot.set", "vm.destroy", "mark"]
        assert [(tool.name, tool.version) for tool in found.header.tools][1:] == [("strace", "9.9")]
        assert found.header.machine.kernel_release is not None
        assert "realtime=" in found.header.provenance
        assert isinstance(found.events[-1], Mark)
        assert "command: exit status 3; clocks: realtime=" in found.events[-1].text
        assert found.trailer.total("lost") == 0
        assert "recording by strace" in bench.errors
        assert "can not see: shadow pages" in bench.errors
        assert sorted(path.name for path in bench.folder.iterdir()) == ["bin", "errors", "fake.txt", "out.kvmr"]

    def test_bpftrace(self, bench: Bench) -> None:
        """With bpftrace the command waits until the probes are on, and pages are recorded."""
        bench.text = PAGES
        assert bench.run("--with", "bpftrace", "-o", "out.kvmr", "--", "true") == 0
        found = bench.recording()
        assert found.kinds[:3] == ["vm.create", "memslot.set", "shadow_root.alloc"]
        assert found.kinds.count("shadow_page.account") == found.kinds.count("shadow_page.unaccount") == 1
        assert found.header.clock == "boottime"

    @pytest.mark.parametrize("refused", [False, True])
    def test_kernel_probes(self, bench: Bench, refused: bool) -> None:
        """Functions that bpftrace lists are probed, and that is said; when it can not place them, it runs without."""
        listing = "kfunc:kvm:kvm_arch_init_vm\\n    struct kvm * kvm\\n"
        lists = BPFTRACE.replace('[ "$1" = -lv ] && exit 1', f"[ \"$1\" = -lv ] && {{ printf '{listing}'; exit 0; }}")
        refuses = 'grep -q kfunc "$3" && exit 1\n' if refused else ""
        bench.tools["bpftrace"] = lists.replace("trap 'exit 0' INT\n", f"{refuses}trap 'exit 0' INT\n")
        bench.text = PAGES
        assert bench.run("--with", "bpftrace", "--keep-traces", "-o", "out.kvmr", "--", "true") == 0
        program = (bench.folder / "out.kvmr.traces" / "kvmtrace.bt").read_text()
        assert ("kfunc:kvm_arch_init_vm" in program) != refused
        assert "vm.create" in bench.recording().kinds
        assert "notifiers are not seen" in bench.errors  # this kernel has no registration to be probed

    def test_degrades_when_a_tool_is_refused(self, bench: Bench) -> None:
        """A bpftrace that is there and does not attach is said, and the next source is taken."""
        bench.environ["FAKE_REFUSAL"] = "ERROR: Could not resolve symbol"
        assert bench.run("-o", "out.kvmr", "--", "true") == 0
        assert "bpftrace can not be used: bpftrace: ERROR: Could not resolve symbol" in bench.errors
        following = SOURCES[1 if tracefs_ability().usable else 2]
        assert f"recording by {following.words}\n" in bench.errors
        # A real tracefs beside a strace that prints what was never called shows none of it: that is said, and lost.
        assert bench.recording().kinds[0] == ("lost" if "tracefs" in following.needs else "vm.create")

    def test_no_source(self, bench: Bench) -> None:
        """A machine that forbids ptrace gets an error with its own words, and nothing is left behind."""
        bench.tools["strace"] = REFUSED
        assert bench.run("--with", "strace", "-o", "out.kvmr", "--", "true") == 2
        assert "KVR501 cannot record: strace: ptrace(PTRACE_TRACEME): Operation not permitted" in bench.errors
        assert not list(bench.folder.glob("out*"))

    def test_text_is_kept(self, bench: Bench) -> None:
        """--keep-traces keeps what the tools printed, which imports by itself."""
        assert bench.run("--with", "strace", "--keep-traces", "-o", "out.kvmr", "--", "true") == 0
        assert (bench.folder / "out.kvmr.traces" / "strace.txt").read_text().startswith(CALLS)

    def test_nothing_of_kvm(self, bench: Bench) -> None:
        """A run that asks nothing of KVM is recorded as one that does not; that is said."""
        bench.text = "1100 100 100 guest FORK child=7 thread=0\n"
        assert bench.run("--with", "bpftrace", "-o", "out.kvmr", "--", "true") == 0
        assert bench.recording().kinds == ["mark"]
        assert "warning: no KVM call was seen" in bench.errors
        assert main(["compare", str(bench.folder / "out.kvmr")]) == 3

    def test_losses_are_kept(self, bench: Bench) -> None:
        """What bpftrace lost is an event at its place and a count."""
        bench.text = PAGES + "Lost 12 events\n"
        bench.run("--with", "bpftrace", "-o", "out.kvmr", "--", "true")
        found = bench.recording()
        assert found.trailer.total("lost") == 12
        assert [event.count for event in found.events if isinstance(event, Lost)] == [12]


class TestUsage:
    """Command lines that can not be meant, before anything is started."""

    @pytest.mark.parametrize(
        ("words", "complaint"),
        [
            ((), "what is to be recorded?"),
            (("--pid", "1", "--", "true"), "what is to be recorded?"),
            (("--pid", "0"), "is no process number"),
            (("--pid", "4194303"), "there is no process 4194303"),
            (("--", "no-such-program-here"), "is no program here"),
            (("-o", "out.jsonl", "--", "true"), "does not end in .kvmr"),
        ],
    )
    def test_refused(
        self,
        words: tuple[str, ...],
        complaint: str,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It says what is wrong, and leaves nothing."""
        monkeypatch.chdir(tmp_path)
        assert main(["record", *words]) == 2
        assert complaint in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    def test_output_is_there(self, bench: Bench) -> None:
        """A recording, or what a killed recorder left, is replaced with --force only."""
        (bench.folder / "out.kvmr").write_text("old")
        words = ("--with", "strace", "-o", "out.kvmr", "--", "true")
        assert bench.run(*words) == 2
        assert (bench.folder / "out.kvmr").read_text() == "old"
        (bench.folder / "out.kvmr").rename(bench.folder / "out.kvmr.part")
        assert bench.run(*words) == 2
        assert "reads all it had; --force replaces it" in bench.errors
        assert bench.run("--force", *words) == 0
        assert "vm.create" in bench.recording().kinds


class TestEnds:
    """However it ends: what is there is readable, and nothing is left running."""

    def test_recorder_killed(self, bench: Bench) -> None:
        """SIGKILL leaves a torn recording of all blocks so far and the whole text; the command dies as well."""
        recorder = bench.start("--with", "strace", "-o", "out.kvmr", "--", "sh", "-c", SLEEPER)
        command = bench.number_in("number")
        part = bench.folder / "out.kvmr.part"
        until(lambda: part.exists() and len(bench.recording("out.kvmr.part").events) == 2)
        recorder.kill()
        recorder.wait()
        until(lambda: not is_running(command))
        found = bench.recording("out.kvmr.part")
        assert found.torn
        assert found.kinds == ["vm.create", "memslot.set"]
        assert [(counter.kind, counter.severity) for counter in found.trailer.counters] == [("torn recording", "lost")]
        assert (bench.folder / "out.kvmr.traces" / "strace.txt").read_text().startswith(CALLS)

    def test_killed_while_it_tries_its_tools(self, bench: Bench) -> None:
        """A tool that is being tried dies with the recorder."""
        bench.tools["bpftrace"] = "#!/bin/sh\necho $$ >number\nexec sleep 60\n"
        recorder = bench.start("--with", "bpftrace", "-o", "out.kvmr", "--", "true")
        tool = bench.number_in("number")
        recorder.kill()
        recorder.wait()
        until(lambda: not is_running(tool))

    def test_tracer_killed(self, bench: Bench) -> None:
        """A tracer that is gone too early is a loss; the recording is complete and says so."""
        bench.text = PAGES
        bench.tools["bpftrace"] = BPFTRACE.replace("while :; do sleep 0.02; done", "sleep 0.3; kill -9 $$")
        assert bench.run("--with", "bpftrace", "-o", "out.kvmr", "--", "sleep", "1") == 0
        found = bench.recording()
        kind = "all that happened after the recorder's bpftrace was gone (killed by SIGKILL)"
        assert [event.what for event in found.events if isinstance(event, Lost)] == [kind]
        assert (found.trailer.counters[0].kind, found.trailer.counters[0].severity) == (kind, "lost")
        assert "bpftrace is gone (killed by SIGKILL)" in bench.errors

    def test_strace_killed(self, bench: Bench) -> None:
        """A strace that is killed takes its command with it; the end of its text is missing, and that is said."""
        bench.tools["strace"] = STRACE.replace('"$@"\n', '"$@" &\n[ "$out" = /dev/null ] || { sleep 0.5; kill -9 $$; }\n')
        assert bench.run("--with", "strace", "-o", "out.kvmr", "--", "sh", "-c", SLEEPER) == 128 + signal.SIGKILL, bench.errors
        assert not is_running(bench.number_in("number"))
        found = bench.recording()
        assert found.kinds[:2] == ["vm.create", "memslot.set"]
        assert sum(isinstance(event, Lost) for event in found.events) == 1
        assert found.trailer.total("lost") == 1

    def test_terminated(self, bench: Bench) -> None:
        """SIGTERM goes to the command; when that has ended, the recording is complete and has its status."""
        recorder = bench.start("--with", "strace", "-o", "out.kvmr", "--", "sh", "-c", SLEEPER)
        command = bench.number_in("number")
        recorder.terminate()
        assert recorder.wait(20) == 9
        assert not is_running(command)
        found = bench.recording()
        assert not found.torn
        assert isinstance(found.events[-1], Mark)
        assert "command: exit status 9" in found.events[-1].text

    def test_asked_twice(self, bench: Bench) -> None:
        """A command that does not end by SIGTERM is killed when it is asked for again."""
        stubborn = SLEEPER.replace('"exit 9"', '""')
        recorder = bench.start("--with", "strace", "-o", "out.kvmr", "--", "sh", "-c", stubborn)
        command = bench.number_in("number")
        recorder.terminate()
        while is_running(command):
            recorder.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        assert recorder.wait(20) == 128 + signal.SIGKILL

    def test_command_leaves_a_process(self, bench: Bench) -> None:
        """Recording goes on until what the command left behind has ended as well."""
        bench.text = PAGES
        assert bench.run("--with", "bpftrace", "-o", "out.kvmr", "--", "sh", "-c", "(sleep 0.8; echo late >late) & exit 4") == 4
        assert (bench.folder / "late").read_text() == "late\n"

    def test_attached(self, bench: Bench) -> None:
        """--pid records until SIGINT, also in the background of a script, and lets the process live; its VMs were there."""
        bench.text = "1100 100 100 guest ENTER fd=4 cmd=4020ae46 arg=7ff w=0,0,100000,7f160171a000,0,0\n"
        bench.text += "1300 100 100 guest IOCTL fd=4 cmd=4020ae46 arg=7ff ret=0\n"
        other = Bench(bench.folder / "other")
        other.folder.mkdir()
        watched = bench.start("--with", "bpftrace", "-o", "inner.kvmr", "--", "sleep", "30")
        until((bench.folder / "inner.kvmr.part").exists)
        other.tools, other.text, other.ignores_sigint = bench.tools, bench.text, True
        recorder = other.start("--with", "bpftrace", "-o", "out.kvmr", "--pid", str(watched.pid))
        until((other.folder / "out.kvmr.part").exists)
        recorder.send_signal(signal.SIGINT)
        assert recorder.wait(20) == 0
        assert watched.poll() is None
        found = other.recording()
        assert not found.header.complete_start
        assert found.kinds == ["vm.attach", "memslot.set", "mark"]


class TestScripts:
    """What is printed to be run elsewhere."""

    def test_bpftrace_program(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The program is the one that record runs."""
        assert main(["record", "--print-script", "--with", "bpftrace"]) == 0
        program = capsys.readouterr().out
        assert program.startswith("#!/usr/bin/env bpftrace\n")
        assert "kvm_mmu_get_page" in program

    def test_shell_program(self, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
        """The shell program records by strace into a folder that imports, with nothing else on the machine."""
        import os
        import subprocess

        assert main(["record", "--print-script", "--with", "strace"]) == 0
        (bench.folder / "record.sh").write_text(capsys.readouterr().out)
        bench.run("--with", "strace", "-o", "out.kvmr", "--", "true")  # lays the tools out
        environ = {
            **os.environ,
            "PATH": f"{bench.folder / 'bin'}:{os.environ['PATH']}",
            "FAKE_TEXT": str(bench.folder / "fake.txt"),
        }
        words = ["sh", "record.sh", "traces", "sh", "-c", "exit 5"]
        assert subprocess.run(words, cwd=bench.folder, env=environ, check=False).returncode == 5
        assert main(["import", str(bench.folder / "traces"), "-o", str(bench.folder / "again.kvmr")]) == 0
        assert bench.recording("again.kvmr").kinds == ["vm.create", "memslot.set", "vm.destroy"]

    def test_tracefs_program(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The program with tracefs is one that a shell can read."""
        import subprocess

        assert main(["record", "--print-script", "--with", "tracefs"]) == 0
        script = tmp_path / "record.sh"
        script.write_text(capsys.readouterr().out)
        subprocess.run(["sh", "-n", str(script)], check=True)
        assert DATA.is_dir()
