"""Arguments as strace prints them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.sources.ioctls import NAMES, NUMBERS, ioctl_name, ioctl_number, is_kvm
from replay.sources.strace_args import MEM_FLAGS, Fd, fd_of, flags_of, ioctl_args, number_of, region_of, rights_of, split_args


class TestNumbers:
    """Numbers and fds at the start of a text."""

    @pytest.mark.parametrize(
        ("text", "number"),
        [
            ("0", 0),
            ("4096", 4096),
            ("0xFFFF", 0xFFFF),
            ("-1", -1),
            ("NULL", 0),
            ("7</dev/kvm>", 7),
            ("18446744073709551615", (1 << 64) - 1),
            ("18446744073709551616", None),
            ("9" * 5000, None),
            ("0x" + "f" * 5000, None),
            ("KVM_RUN", None),
            ("", None),
        ],
    )
    def test_number(self, text: str, number: int | None) -> None:
        """Decimal, hex and NULL; nothing that needs more than 64 bits."""
        assert number_of(text) == number

    @pytest.mark.parametrize(
        ("text", "fd"),
        [
            ("4", Fd(4)),
            ("0x4", Fd(4)),
            ("4<anon_inode:kvm-vcpu:0>, KVM_RUN", Fd(4, "anon_inode:kvm-vcpu:0")),
            ("3</dev/kvm<char 10:232>>", Fd(3, "/dev/kvm<char 10:232>")),
            ("AT_FDCWD</>", None),
            ("-1", Fd(-1)),
        ],
    )
    def test_fd(self, text: str, fd: Fd | None) -> None:
        """With and without a note, even one with brackets inside (-yy)."""
        assert fd_of(text) == fd

    @given(st.integers(0, (1 << 32) - 1), st.booleans())
    def test_flag_words(self, bits: int, verbose: bool) -> None:
        """Any set of flags survives being printed as names and a rest in hex."""
        names = [name for name, bit in MEM_FLAGS.items() if bits & bit]
        rest = bits & ~sum(MEM_FLAGS.values())
        text = "|".join([*names, *([f"{rest:#x}"] if rest or not names else [])])
        assert flags_of(f"{bits:#x} /* {text} */" if verbose else text, MEM_FLAGS) == bits

    def test_unknown_flag(self) -> None:
        """A name that is not known leaves the value unknown."""
        assert flags_of("KVM_MEM_LOG_DIRTY_PAGES|KVM_MEM_NEW", MEM_FLAGS) is None


class TestIoctls:
    """Commands, in every spelling."""

    def test_deleted_file(self) -> None:
        """Behind the note of a file that was deleted strace says so."""
        args = ioctl_args("7</tmp/tmp.6ojpPFHOJG>(deleted), TCGETS, NULL")
        assert args is not None
        assert (args.fd, args.cmd_text) == (Fd(7, "/tmp/tmp.6ojpPFHOJG"), "TCGETS")

    @pytest.mark.parametrize(
        "text",
        [
            "KVM_SET_USER_MEMORY_REGION2",
            "0x40a0ae49",
            "0x40a0ae49 /* KVM_SET_USER_MEMORY_REGION2 */",
            "_IOC(_IOC_WRITE, 0xae, 0x49, 0xa0)",
        ],
    )
    def test_spellings(self, text: str) -> None:
        """A name, a number, both, or its parts."""
        assert ioctl_number(text) == 0x40A0AE49
        args = ioctl_args(f"4<anon_inode:kvm-vm>, {text}, 0x7ffd")
        assert args is not None
        assert (args.fd.number, args.cmd, args.arg) == (4, 0x40A0AE49, "0x7ffd")

    @pytest.mark.parametrize("text", ["TCGETS", "_IOC(what, x)", "0x", "SNDCTL_TMR_TIMEBASE or TCGETS"])
    def test_unknown(self, text: str) -> None:
        """What is not known has no number."""
        assert ioctl_number(text) is None

    @pytest.mark.parametrize("text", ["", "4", "4, ", "x, KVM_RUN", "4<x, KVM_RUN", "4, KVM_RUN junk"])
    def test_no_ioctl(self, text: str) -> None:
        """Damaged arguments are none."""
        assert ioctl_args(text) is None

    def test_cut_after_the_command(self) -> None:
        """A call that was split before its argument has an empty one."""
        args = ioctl_args("9<anon_inode:kvm-vcpu:0>, KVM_RUN")
        assert args is not None
        assert (args.cmd, args.arg) == (0xAE80, "")

    def test_table(self) -> None:
        """Every name has one number and the other way round; KVM's are of type 0xAE."""
        assert len(NAMES) == len(NUMBERS)
        assert all(is_kvm(number) == name.startswith("KVM_") for name, number in NUMBERS.items())
        assert all(ioctl_number(name) == number == ioctl_number(f"{number:#x}") for name, number in NUMBERS.items())
        assert ioctl_name(NUMBERS["KVM_RUN"]) == "KVM_RUN"

    def test_shared_low_bits(self) -> None:
        """KVM_GET_TSC_KHZ and KVM_ENABLE_CAP share their low byte: only whole numbers are compared."""
        assert ioctl_name(0xAEA3) == "KVM_GET_TSC_KHZ"
        assert ioctl_name(0x4068AEA3) == "KVM_ENABLE_CAP"


class TestStructs:
    """Memory regions."""

    WHOLE = "{slot=1, flags=0, guest_phys_addr=0x1000, memory_size=4096, userspace_addr=0x7f00}"

    def test_whole(self) -> None:
        """All five fields."""
        assert region_of(self.WHOLE) == {
            "slot": 1,
            "flags": 0,
            "guest_phys_addr": 0x1000,
            "memory_size": 4096,
            "userspace_addr": 0x7F00,
        }

    @pytest.mark.parametrize("length", range(len(WHOLE)))
    def test_cut(self, length: int) -> None:
        """A struct cut anywhere is none: no field is made up."""
        assert region_of(self.WHOLE[:length]) is None

    @pytest.mark.parametrize(
        "text", ["0x7ffd", "NULL", "{slot=1, ...}", "{slot=-1, flags=0, guest_phys_addr=0, memory_size=1, userspace_addr=0}"]
    )
    def test_others(self, text: str) -> None:
        """Pointers, abbreviations and impossible values are none."""
        assert region_of(text) is None


class TestLists:
    """Arguments in a row, and fds in messages."""

    @given(st.lists(st.sampled_from(["1", '"a,b\\"c"', "{a=1, b=[2, 3]}", "4</a,b>", "X|Y", "f(1, 2)"]), min_size=1))
    def test_split(self, parts: list[str]) -> None:
        """Commas inside brackets, notes and strings do not split."""
        assert split_args(", ".join(parts)) == parts

    def test_rights(self) -> None:
        """Fds of every control message, with notes that hold brackets."""
        text = (
            "{msg_control=[{cmsg_type=SCM_RIGHTS, cmsg_data=[5<anon_inode:[pidfd]>, 6]}, {cmsg_type=SCM_RIGHTS, cmsg_data=[7]}]}"
        )
        assert rights_of(text) == [Fd(5, "anon_inode:[pidfd]"), Fd(6), Fd(7)]
        assert rights_of("{msg_control=[{cmsg_type=SCM_CREDENTIALS, cmsg_data={pid=1}}]}") == []
