"""The parts of the recorder that need no tool: probes, scripts, exit status, tails, instances."""

import os
import signal
from pathlib import Path

import attrs
import pytest

from replay.record.abilities import CHOICES, SOURCES, Ability, Machine
from replay.record.header import config_words, this_machine
from replay.record.kernel_probes import blocks, chosen
from replay.record.processes import Children, children_of, exit_words, made_by, shell_status, started_at, threads_of
from replay.record.scripts import STRACE_CALLS, shell_script, strace_words
from replay.record.tail import Tail
from replay.record.tracefs import Instance, clock_pairs, remove_stale
from replay.sources.bpftrace_lines import fact

LISTING = """\
kfunc:kvm:kvm_arch_init_vm
    struct kvm * kvm
    long unsigned int type
    int retval
kfunc:kvm:kvm_page_track_register_notifier
    struct kvm * kvm
    struct kvm_page_track_notifier_node * n
{result}kfunc:kvm:kvm_page_track_unregister_notifier
    struct kvm * kvm
    struct kvm_page_track_notifier_node * n
    void retval
"""


class TestKernelProbes:
    """Probes on KVM's functions, of which each kernel has others."""

    def test_all_are_there(self) -> None:
        """The five functions that the reader knows."""
        kinds = [text.partition("%s ")[2].split()[0] for _, _, text in blocks()]
        assert kinds == ["VM", "REGISTER", "UNREGISTER", "WTADD", "WTREMOVE"]

    def test_those_that_the_kernel_has(self) -> None:
        """Functions that are not listed get no probe."""
        program = chosen(LISTING.format(result="    int retval\n"))
        assert [name in program for name in ("kvm_arch_init_vm", "register_notifier", "add_gfn")] == [True, True, False]
        assert "ret=%d" in program

    def test_function_without_a_result(self) -> None:
        """Before 6.6 the registration has no result: none is asked for."""
        program = chosen(LISTING.format(result=""))
        assert "ret" not in program.partition("REGISTER")[2].partition("}")[0]
        assert fact(b"REGISTER kvm=1 node=2") is not None

    def test_names_that_hold_others(self) -> None:
        """A function whose name only ends like one of them is none."""
        inner = "kfunc:kvm:__kvm_write_track_add_gfn\n    struct kvm * kvm\n    gfn_t gfn\n"
        assert chosen(inner) == ""
        whole = inner + "kfunc:kvm:kvm_write_track_add_gfn\n    struct kvm * kvm\n    gfn_t gfn\n    int retval\n"
        assert chosen(whole).count("WTADD") == 1

    def test_nothing_listed(self) -> None:
        """A bpftrace that lists nothing gives no probes."""
        assert chosen("") == chosen("tracepoint:kvm:kvm_exit\n") == ""


class TestSources:
    """The table of sources."""

    @pytest.mark.parametrize(
        ("there", "expected"),
        [
            (("bpftrace", "strace", "tracefs"), "bpftrace"),
            (("strace", "tracefs"), "strace+tracefs"),
            (("strace",), "strace"),
            (("tracefs",), "tracefs"),
            (("bpftrace",), "bpftrace"),
            ((), None),
        ],
    )
    def test_best_of_what_is_there(self, there: tuple[str, ...], expected: str | None) -> None:
        """The source that sees most of those whose tools work; the others say why not."""
        tools = ("bpftrace", "strace", "tracefs")
        known = {name: Ability(name, usable=name in there, why=f"no {name}") for name in tools}
        machine = Machine(known=known)
        reasons = {source.name: machine.why_not(source) for source in SOURCES}
        usable = [name for name in CHOICES["auto"] if not reasons[name]]
        assert (usable[0] if usable else None) == expected
        assert all(reason.startswith("no ") for name, reason in reasons.items() if name not in usable)

    def test_choices_name_sources(self) -> None:
        """Each argument of --with allows sources that there are."""
        assert {name for names in CHOICES.values() for name in names} == {source.name for source in SOURCES}


class TestScripts:
    """What is generated."""

    def test_strace_attached(self) -> None:
        """Attached to a process strace has no filter in the kernel: it can not be set from outside."""
        assert "--seccomp-bpf" not in strace_words("s", seccomp=True, pid=7)
        assert strace_words("s", seccomp=True, pid=7)[-2:] == ["-p", "7"]

    def test_calls(self) -> None:
        """Calls that not every machine has are marked, so that strace does not refuse the list."""
        assert {"ioctl", "openat", "close", "clone", "execve", "exit_group"} <= set(STRACE_CALLS.split(","))

    @pytest.mark.parametrize(("strace", "tracefs"), [(True, False), (True, True), (False, True)])
    def test_shell(self, tmp_path: Path, strace: bool, tracefs: bool) -> None:
        """The shell program names what it runs, and is one that a shell can read."""
        import subprocess

        text = shell_script(strace=strace, tracefs=tracefs, seccomp=True)
        assert ("strace -f --seccomp-bpf" in text) == strace
        assert ("rmdir" in text) == tracefs
        (tmp_path / "s.sh").write_text(text)
        subprocess.run(["sh", "-n", str(tmp_path / "s.sh")], check=True)


class TestExit:
    """How a process ended."""

    @pytest.mark.parametrize(
        ("status", "words", "number"), [(0, "exit status 0", 0), (3 << 8, "exit status 3", 3), (9, "killed by SIGKILL", 137)]
    )
    def test_status(self, status: int, words: str, number: int) -> None:
        """In words, and as shells give it."""
        assert (exit_words(status), shell_status(status)) == (words, number)


class TestChildren:
    """Processes of our own."""

    def test_start_and_reap(self) -> None:
        """A child's end is noted; it is listed while it runs."""
        children = Children()
        pid = children.start(["sh", "-c", "exit 4"])
        assert children.wait(pid, 20)
        assert os.waitstatus_to_exitcode(children.ended[pid]) == 4

    def test_held_until_released(self, tmp_path: Path) -> None:
        """A held child runs nothing until it is let go; when it never is, it never does."""
        children = Children()
        for go in (b"!", b""):
            reader, writer = os.pipe()
            mark = tmp_path / f"ran{len(go)}"
            pid = children.start(["touch", str(mark)], hold=reader)
            os.close(reader)
            assert pid in children_of(os.getpid())
            assert not mark.exists()
            os.write(writer, go)
            children.send(pid, signal.SIGKILL) if not go else None
            os.close(writer)
            assert children.wait(pid, 20)
            assert mark.exists() == bool(go)

    def test_program_that_is_not_there(self, capfd: pytest.CaptureFixture[str]) -> None:
        """It ends as it does under a shell, with a sentence."""
        children = Children()
        pid = children.start(["/no/such/program"])
        assert children.wait(pid, 20)
        assert os.waitstatus_to_exitcode(children.ended[pid]) == 127
        assert "/no/such/program: No such file" in capfd.readouterr().err

    def test_facts_of_processes(self) -> None:
        """Threads, times and makers come from /proc; of a process that is gone there are none."""
        assert os.getpid() in threads_of(os.getpid())
        assert started_at(os.getpid()).isdecimal()
        assert made_by(os.getpid(), os.getppid())
        assert not made_by(os.getppid(), os.getpid())
        assert (threads_of(4194303), started_at(4194303), made_by(4194303, 1)) == ([], "", False)


class TestTail:
    """Files that grow."""

    def test_reads_what_comes_and_ends(self, tmp_path: Path) -> None:
        """Pieces as they come, an empty one when there is nothing, and all that was there when the writer ended."""
        path = tmp_path / "text"
        path.write_bytes(b"one\n")
        ticks: list[bool] = []

        def tick(idle: bool) -> None:
            ticks.append(idle)
            if len(ticks) == 2:
                path.write_bytes(b"one\ntwo\n")

        pieces = list(Tail(path, lambda: len(ticks) >= 2, tick))
        assert pieces == [b"one\n", b"", b"two\n"]
        assert ticks == [False, True, False]


class TestInstances:
    """tracefs, as far as files show it."""

    def test_stale_ones_are_found_by_name(self, tmp_path: Path) -> None:
        """Those of dead recorders go, those of living ones and of others stay."""
        names = [
            f"kvm-replay-{os.getpid()}-{started_at(os.getpid())}",
            f"kvm-replay-{os.getpid()}-1",
            "kvm-replay-4194303-77",
            "mine",
        ]
        for name in names:
            (tmp_path / "instances" / name).mkdir(parents=True)
        assert remove_stale(tmp_path) == sorted(names[1:3])
        assert sorted(path.name for path in (tmp_path / "instances").iterdir()) == sorted([names[0], "mine"])

    def test_losses_by_cpu(self, tmp_path: Path) -> None:
        """What the kernel counts is read for each CPU, in their order."""
        for cpu, overrun in ((10, 0), (2, 7)):
            (tmp_path / f"per_cpu/cpu{cpu}").mkdir(parents=True)
            text = f"entries: 5\noverrun: {overrun}\ncommit overrun: 0\nbytes: 3\ndropped events: 1\nread events: 9\n"
            (tmp_path / f"per_cpu/cpu{cpu}/stats").write_text(text)
        found = dict(Instance(tmp_path).stats())
        assert list(found) == [2, 10]
        assert found[2] == {"entries": 5, "overrun": 7, "commit overrun": 0, "dropped events": 1}


class TestHeader:
    """What is known of the machine."""

    def test_machine(self) -> None:
        """The kernel's release is always known; nothing is made up."""
        machine = this_machine()
        assert machine.kernel_release == os.uname().release
        assert attrs.asdict(machine)["page_size_bytes"] == 4096

    def test_config(self) -> None:
        """KVM's options and the modules' parameters, and no others."""
        found = {
            "/proc/config.gz": None,
            "/boot/config-6.1": "CONFIG_KVM=m\nCONFIG_KVM_INTEL=m\n# CONFIG_KVM_XEN is not set\nCONFIG_X86=y\n",
            "/sys/module/kvm_intel/parameters/ept": "Y\n",
        }
        assert config_words(found.get, "6.1") == "kvm_intel.ept=Y CONFIG_KVM=m CONFIG_KVM_INTEL=m"

    def test_clocks(self) -> None:
        """Every clock that a source may use."""
        assert [word.partition("=")[0] for word in clock_pairs().split()] == ["realtime", "tai", "boottime", "monotonic"]
