"""Every set of strace options that keeps the arguments gives the same events; the others say what they lose."""

from pathlib import Path

import attrs
import pytest
from strace_texts import EXCERPTS, bare, excerpt, imported, slot_changes

from replay.errors import TraceOptionError
from replay.events import Event, Lost, MemslotSet, Opaque, VcpuCreate, VmCreate, VmDestroy
from replay.units import Hva

SAME_RUN = [
    *("Xraw", "Xverbose", "eabbrevnone", "f_T_ttt", "f_r", "f_t", "f_tt", "f_tttns", "f_y", "f_yy", "i_ip", "kvmdecode"),
    *("n_sysno", "plain", "seccomp", "v_full"),
]
"""Option sets under which one small guest was recorded again and again; f_ttt is the measure."""


def shapes(name: str) -> list[Event]:
    """Return the events of a recording without what differs from run to run: addresses of the process."""
    events = bare(excerpt(name).events)
    return [attrs.evolve(event, userspace_addr=Hva(0)) if isinstance(event, MemslotSet) else event for event in events]


class TestOptionSets:
    """The options of strace that change how lines look."""

    @pytest.mark.parametrize("name", SAME_RUN)
    def test_same_events(self, name: str) -> None:
        """Whatever the options, the same calls become the same events."""
        assert slot_changes(excerpt(name).events) == {"create": 3, "delete": 1, "flags": 2, "peak": 2}
        assert excerpt(name).kinds() == excerpt("f_ttt").kinds()
        assert shapes(name) == shapes("f_ttt")

    @pytest.mark.parametrize("name", [*SAME_RUN, "f_ttt", "Y_comm", "exitq", "z_success"])
    def test_all_lines_understood(self, name: str) -> None:
        """No line of any option set is left over."""
        assert excerpt(name).not_understood() == []

    def test_events_of_the_measure(self) -> None:
        """The measure itself holds what the guest did, in its order."""
        kinds = excerpt("f_ttt").kinds()
        sets = ["memslot.set"]
        assert kinds == ["vm.create", *sets * 2, "vcpu.create", *sets * 4, "vm.destroy"]

    @pytest.mark.parametrize(
        ("name", "clock", "first_ns", "exit_ns"),
        [
            ("f_ttt", "realtime", 1795343273_241280000, None),
            ("f_tttns", "realtime", 1795343273_564810870, 1795343273_565068372),
            ("f_T_ttt", "realtime", 1795343273_490892000, 1795343273_491181000),
            ("f_tt", "time of day", 37673_748350000, None),
            ("f_t", "time of day", 37673_000000000, None),
            ("f_r", "relative", 0, None),
            ("Xraw", "none", None, None),
        ],
    )
    def test_clocks(self, name: str, clock: str, first_ns: int | None, exit_ns: int | None) -> None:
        """The header says which clock the stamps are; nanoseconds are exact."""
        got = excerpt(name)
        (create,) = got.of(VmCreate)
        assert got.stream.header.clock == clock
        assert create.time_ns == (first_ns if exit_ns is None else exit_ns)
        assert create.enter_time_ns == (None if exit_ns is None else first_ns)

    def test_relative_stamps_add_up(self) -> None:
        """With -r every line's stamp counts from the line before, and all of them are added."""
        times = excerpt("f_r").times()
        assert times[:3] == [0, 326_000, 2_345_000]
        assert times == sorted(times)

    def test_tids_and_processes(self) -> None:
        """Events carry the thread when the recording names one, and none when it does not (no -f)."""
        assert set(excerpt("f_ttt").tids()) == {27420}
        assert {event.task for event in excerpt("plain").events} == {None}


class TestLossyOptions:
    """Options that lose what a replay needs."""

    @pytest.mark.parametrize("name", ["eraw", "everbosenone"])
    def test_raw_arguments_are_opaque(self, name: str) -> None:
        """A pointer alone says nothing of the slot: the call becomes opaque, with its number and result."""
        got = excerpt(name)
        assert [(e.cmd, e.ret) for e in got.of(Opaque)] == [(0x4020AE46, 0)] * 6
        assert got.of(MemslotSet) == []
        assert ([e.ret for e in got.of(VmCreate)], [e.ret for e in got.of(VcpuCreate)]) == ([4], [5])

    def test_summary_is_refused(self) -> None:
        """A table of strace -c holds no calls: an error that says how to record."""
        with pytest.raises(TraceOptionError, match="strace -c") as caught:
            excerpt("summary")
        assert caught.value.where.endswith("/strace/summary.txt")
        assert "-ttt" in caught.value.advice

    def test_path_filter_is_said(self) -> None:
        """Strace -P /dev/kvm drops every call on a VM: a VM that nobody ever calls is a loss."""
        got = excerpt("kvm_only")
        assert got.kinds() == ["vm.create", "vm.destroy", "lost"]
        assert "-P /dev/kvm" in got.of(Lost)[0].what
        assert got.stream.warnings() == ("kvm_only.txt: all calls on VMs: strace -P /dev/kvm shows their creation only",)

    @pytest.mark.parametrize("name", ["Z_fail", "status"])
    def test_failures_only_is_said(self, name: str) -> None:
        """Where no call at all succeeds, -Z or status=failed hid those that did."""
        got = excerpt(name)
        assert [event.what.split(":")[0] for event in got.of(Lost)] == ["all calls that succeeded"]

    def test_successes_only_is_not_accused(self) -> None:
        """A recording without a failed call (-z) may simply be one: nothing is said."""
        got = excerpt("z_success")
        assert slot_changes(got.events) == {"create": 5, "move": 2, "flags": 2, "same": 1, "peak": 5}
        assert got.of(Lost) == []
        assert got.stream.warnings() == ()


class TestSeparateFiles:
    """The files NAME.TID of strace -ff are one run."""

    FILES = sorted((EXCERPTS / "ff").iterdir())

    def test_merged_by_time(self) -> None:
        """Six racing threads of one process, each in its file, come out in order of time, of one VM."""
        got = imported(*self.FILES)
        assert len(self.FILES) == 8
        assert slot_changes(got.events) == {"create": 30, "delete": 30, "peak": 4}
        assert {event.vm for event in got.of(MemslotSet)} == {0}
        assert set(got.tids()) == {27675, 27795, *range(27797, 27802)}
        assert got.times() == sorted(got.times())
        assert len(got.of(VmDestroy)) == 1

    def test_order_of_arguments_does_not_matter(self) -> None:
        """The files may be given in any order."""
        assert imported(*reversed(self.FILES)).events == imported(*self.FILES).events

    def test_sources_say_the_file(self) -> None:
        """An event's source is the file of its thread."""
        got = imported(*self.FILES)
        assert [place.split(":")[0] for place in got.places()] == [f"ff.txt.{tid}" for tid in got.tids()]
        assert got.places()[0] == "ff.txt.27675:5"

    def test_waiting_calls(self, tmp_path: Path) -> None:
        """A recvmsg that waited took effect after it began: with the exit of -T, or with its thread's next line."""
        fd = "{msg_control=[{cmsg_type=SCM_RIGHTS, cmsg_data=[%d<anon_inode:kvm-vm>]}]}, 0) = 1"
        creator = [
            "1795343273.2 clone(flags=SIGCHLD) = 11",
            "1795343273.3 ioctl(3</dev/kvm>, KVM_CREATE_VM, 0) = 4<anon_inode:kvm-vm>",
            f"1795343273.4 sendmsg(8, {fd % 4}",
            "1795343273.5 close(4<anon_inode:kvm-vm>) = 0",
        ]
        for tail in (" <0.25>", ""):
            receiver = [f"1795343273.21 recvmsg(8, {fd % 6}{tail}", "1795343273.6 close(6<anon_inode:kvm-vm>) = 0"]
            (tmp_path / "a.10").write_text("\n".join(creator) + "\n")
            (tmp_path / "a.11").write_text("\n".join(receiver) + "\n")
            got = imported(tmp_path / "a.10", tmp_path / "a.11")
            assert got.kinds() == ["vm.create", "vm.destroy"]
            assert got.of(VmDestroy)[0].time_ns == 1795343273_600000000

    def test_racing_calls_end_in_order(self, tmp_path: Path) -> None:
        """With -T, calls of two threads come out in the order in which they returned."""
        call = "ioctl(4, KVM_SET_USER_MEMORY_REGION, {slot=%d, flags=0, guest_phys_addr=0, memory_size=0, userspace_addr=0}) = 0"
        main = ["1.0 ioctl(3, KVM_CREATE_VM, 0) = 4 <0.1>", "1.2 clone(flags=CLONE_VM|CLONE_FILES|CLONE_THREAD) = 11 <0.1>"]
        (tmp_path / "a.10").write_text("\n".join(f"179534327{line}" for line in [*main, f"1.5 {call % 1} <0.4>"]) + "\n")
        (tmp_path / "a.11").write_text(f"1795343271.6 {call % 2} <0.1>\n")
        got = imported(tmp_path / "a.10", tmp_path / "a.11")
        assert [event.slot for event in got.of(MemslotSet)] == [2, 1]
        assert got.times() == sorted(got.times())

    def test_names_without_a_thread(self, tmp_path: Path) -> None:
        """A file whose name does not end in a thread id is not of strace -ff."""
        for name in ("a.txt", "b.txt"):
            (tmp_path / name).write_text("1795343273.1 ioctl(3, KVM_CREATE_VM, 0) = 4\n")
        with pytest.raises(TraceOptionError, match="thread id"):
            imported(tmp_path / "a.txt", tmp_path / "b.txt")

    def test_no_kvm(self, tmp_path: Path) -> None:
        """A recording without any call on KVM says so."""
        (tmp_path / "a").write_text("9 close(3) = 0\n")
        got = imported(tmp_path / "a")
        assert (got.events, got.stream.warnings()) == ([], ("a: no call on KVM in it",))

    def test_no_times(self, tmp_path: Path) -> None:
        """Without times nobody can say in which order the threads ran."""
        for name in ("a.1", "a.2"):
            (tmp_path / name).write_text("ioctl(3, KVM_CREATE_VM, 0) = 4\n")
        with pytest.raises(TraceOptionError, match="common clock"):
            imported(tmp_path / "a.1", tmp_path / "a.2")
