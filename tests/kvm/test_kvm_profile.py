"""Releases, profiles and policies: which kernel a lane is."""

import pytest
from lane import BY_NAME, ZOO

from replay.errors import ProfileError
from replay.header import Machine
from replay.kvm.policies import policy_for, policy_named
from replay.kvm.profile import ALIASES, Profile, parse_facts, profile_of
from replay.kvm.release import Release


class TestRelease:
    """A release is compared by its numbers."""

    @pytest.mark.parametrize(
        ("text", "numbers"),
        [
            ("6.12.117+deb13-amd64", (6, 12, 117)),
            ("6.8", (6, 8, 0)),
            ("v6.9-rc3", (6, 9, 0)),
            ("5.16.0-1-amd64", (5, 16, 0)),
            ("6.1.0-56-cloud-amd64", (6, 1, 0)),
            (" 6.18.44 ", (6, 18, 44)),
            ("6.8.0-31-generic #31-Ubuntu SMP", (6, 8, 0)),
        ],
    )
    def test_reads_uname(self, text: str, numbers: tuple[int, int, int]) -> None:
        """What distributions append changes nothing."""
        assert Release.parse(text) == Release(*numbers)

    @pytest.mark.parametrize("text", ["", "linux", "6", "6.", ".8", "six.eight", "-6.8", "1234.1"])
    def test_refuses_what_is_none(self, text: str) -> None:
        """A text that is no release is a ProfileError that says what one looks like."""
        with pytest.raises(ProfileError, match=r"expected MAJOR\.MINOR"):
            Release.parse(text)

    def test_orders_by_number(self) -> None:
        """6.12.64 is newer than 6.12.9, and 6.10 than 6.9."""
        texts = ["6.12.64", "5.19", "6.9", "6.12", "6.10", "6.12.9", "6.1.192"]
        ordered = sorted(map(Release.parse, texts))
        assert [str(release) for release in ordered] == ["5.19", "6.1.192", "6.9", "6.10", "6.12", "6.12.9", "6.12.64"]

    @pytest.mark.parametrize(("numbers", "is_newer"), [((6, 9), False), ((6, 8), True), ((6, 8, 3), True), ((6, 8, 4), False)])
    def test_at_least(self, numbers: tuple[int, ...], *, is_newer: bool) -> None:
        """A release is at least itself and all before."""
        assert Release(6, 8, 3).at_least(*numbers) is is_newer


class TestProfile:
    """A profile is complete, and says what was assumed."""

    def test_nothing_known_assumes_all_that_matters(self) -> None:
        """An empty header gives the defaults, each of them named."""
        profile = profile_of(Machine())
        assert profile.release == Release(6, 12)
        assert profile.assumed == (
            "release=6.12",
            "config_external_write_tracking=y",
            "tdp=y",
            "tdp_mmu=y",
            "smm=y",
            "vendor=",
            "la57=n",
            "max_phys_bits=52",
        )

    def test_header_is_taken(self) -> None:
        """Facts of the header are not assumed."""
        profile = profile_of(Machine(kernel_release="6.8.0", config_external_write_tracking=False, tdp=False, smm=False))
        assert (profile.release, profile.config_external_write_tracking, profile.tdp, profile.smm) == (
            Release(6, 8),
            False,
            False,
            False,
        )
        assert profile.assumed == ("vendor=", "la57=n", "max_phys_bits=52")

    def test_overrides_win(self) -> None:
        """What the user says replaces what the header says, and is not assumed."""
        profile = profile_of(Machine(tdp=True, smm=True), parse_facts("tdp=0,release=6.1.192"))
        assert (profile.tdp, profile.smm, profile.release) == (False, True, Release(6, 1, 192))
        assert not any(word.startswith(("tdp=", "release=")) for word in profile.assumed)

    def test_tdp_mmu_of_a_machine_without_tdp_says_nothing(self) -> None:
        """Where the recorded machine had no tdp and the user asks for it, its TDP MMU is assumed, not taken."""
        profile = profile_of(Machine(tdp=False, tdp_mmu=False), {"tdp": True})
        assert profile.tdp_mmu_enabled
        assert "tdp_mmu=y" in profile.assumed
        assert not profile_of(Machine(tdp=True, tdp_mmu=False), {"tdp": True}).tdp_mmu_enabled
        assert not profile_of(Machine(tdp=False), {"tdp": True, "tdp_mmu": False}).tdp_mmu_enabled

    @pytest.mark.parametrize(
        ("vendor", "named"),
        [("intel", {"unrestricted_guest", "flexpriority"}), ("amd", {"avic"}), ("pvm", set())],
    )
    def test_vendor_facts_matter_to_their_vendor(self, vendor: str, named: set[str]) -> None:
        """VMX facts are assumed aloud on Intel only, AVIC on AMD only."""
        assumed = {word.split("=")[0] for word in profile_of(Machine(vendor=vendor)).assumed}
        assert assumed & {"unrestricted_guest", "flexpriority", "avic"} == named

    @pytest.mark.parametrize(("tdp", "tdp_mmu", "enabled"), [(0, 0, False), (0, 1, False), (1, 0, False), (1, 1, True)])
    def test_tdp_mmu_needs_tdp(self, tdp: int, tdp_mmu: int, *, enabled: bool) -> None:
        """The TDP MMU is in use only with tdp."""
        assert Profile(tdp=bool(tdp), tdp_mmu=bool(tdp_mmu)).tdp_mmu_enabled is enabled

    def test_facts_are_words(self) -> None:
        """Every fact but the assumptions is a word, in a fixed order, and reads back to the same profile."""
        profile = Profile(release=Release(6, 8, 2), tdp=False, vendor="amd", total_ram_pages=77)
        text = ",".join(f"{name}={word}" for name, word in profile.facts().items())
        assert text.startswith("release=6.8.2,config_external_write_tracking=y,tdp=n,tdp_mmu=y")
        assert Profile(**parse_facts(text)) == profile

    @pytest.mark.parametrize(("alias", "name"), sorted(ALIASES.items()))
    def test_aliases(self, alias: str, name: str) -> None:
        """The vendor's own words are understood."""
        value = "6.8" if name == "release" else "n"
        assert list(parse_facts(f"{alias}={value}")) == [name]

    @pytest.mark.parametrize("word", ["1", "y", "yes", "true", "on", "Y", "ON"])
    def test_words_for_yes(self, word: str) -> None:
        """Each usual word for yes is one."""
        assert parse_facts(f"tdp={word}") == {"tdp": True}

    @pytest.mark.parametrize("word", ["0", "n", "no", "false", "off"])
    def test_words_for_no(self, word: str) -> None:
        """Each usual word for no is one."""
        assert parse_facts(f" tdp = {word} , ") == {"tdp": False}

    @pytest.mark.parametrize(
        "text",
        ["tdp", "tdp=2", "tdp=", "=1", "unknown=1", "max_phys_bits=31", "max_phys_bits=53", "max_phys_bits=many", "assumed=1"],
    )
    def test_bad_words(self, text: str) -> None:
        """A word that is no fact, or no value for one, is a ProfileError that names it."""
        with pytest.raises(ProfileError, match="expected"):
            parse_facts(f"smm=1,{text}")

    @pytest.mark.parametrize(("name", "low", "high"), [("max_phys_bits", 32, 52), ("total_ram_pages", 0, 1 << 52)])
    def test_numbers(self, name: str, low: int, high: int) -> None:
        """A number is taken from its lowest to its highest value, and no other."""
        for number in (low, high):
            assert parse_facts(f"{name}={number}") == {name: number}
        for number in (low - 1, high + 1):
            with pytest.raises(ProfileError, match=f"no value for {name}"):
                parse_facts(f"{name}={number}")

    def test_bad_release_is_said(self) -> None:
        """A release that is none is said as such."""
        with pytest.raises(ProfileError, match="is not a kernel release"):
            parse_facts("release=new")


class TestPolicies:
    """The policy follows from release and option together."""

    @pytest.mark.parametrize(
        ("release", "name"),
        [
            ("5.0", "always"),
            ("5.15.180", "always"),
            ("5.16", "eager-5.16"),
            ("5.19.17", "eager-5.16"),
            ("6.1.192", "eager-5.16"),
            ("6.5.99", "eager-5.16"),
            ("6.6", "eager-6.6"),
            ("6.8.12", "eager-6.6"),
            ("6.9", "on-demand"),
            ("6.12.117", "on-demand"),
            ("7.2", "on-demand"),
        ],
    )
    def test_by_release(self, release: str, name: str) -> None:
        """The on-demand policy came with 6.9, the new API with 6.6, the option with 5.16."""
        assert policy_for(Release.parse(release)).name == name

    @pytest.mark.parametrize("release", ["4.20.17", "4.19", "2.6.32"])
    def test_too_old(self, release: str) -> None:
        """Before 5.0 there is no row, and the error says so."""
        with pytest.raises(ProfileError, match=r"no policy is modelled for .*expected 5\.0 or later"):
            policy_for(Release.parse(release))

    @pytest.mark.parametrize(("release", "name"), [("6.5", "eager-5.16"), ("6.6", "eager-6.6"), ("6.12", "eager-6.6")])
    def test_eager_has_two_flavours(self, release: str, name: str) -> None:
        """The word eager means the flavour whose API the release has."""
        assert policy_named("eager", Release.parse(release)).name == name

    @pytest.mark.parametrize("name", ZOO)
    def test_by_name(self, name: str) -> None:
        """Each policy is found under its own name, whatever the release."""
        assert policy_named(name, Release(6, 1)) is policy_named(name, Release(6, 12)) is BY_NAME[name]

    def test_unknown_name(self) -> None:
        """An unknown name is answered with those that there are."""
        with pytest.raises(ProfileError, match=r"one of eager, always, eager-5\.16, eager-6\.6, v1, v2, on-demand, ideal, or"):
            policy_named("lazy", Release(6, 12))
