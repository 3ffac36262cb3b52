"""Promises of what is found out of a machine: each fact from where it is, and nothing made up."""

import gzip
from pathlib import Path

import attrs
import pytest
from fake_kernel import EXTENSIONS, FILES, RELEASE, FakeKernel

from replay.errors import NoKernelError
from replay.header import Machine
from replay.live.probe import PROBES, System, probe, probe_device, read_text
from replay.live.uapi import Argument

INTEL = {
    "/boot/config-6.8.0-9-generic": "CONFIG_KVM=m\nCONFIG_KVM_EXTERNAL_WRITE_TRACKING=y\n",
    "/sys/module/kvm/parameters/tdp_mmu": "Y\n",
    "/sys/module/kvm_intel/parameters/ept": "Y\n",
    "/sys/module/kvm_intel/parameters/unrestricted_guest": "N\n",
    "/sys/module/kvm_intel/parameters/flexpriority": "Y\n",
    "/proc/cpuinfo": "vendor_id : GenuineIntel\nflags : fpu vmx la57\naddress sizes : 46 bits physical, 57 bits virtual\n",
    "/proc/meminfo": "MemTotal: 4096 kB\n",
}
AMD = {
    "/lib/modules/6.1.0/config": "CONFIG_KVM=m\n",
    "/sys/module/kvm_amd/parameters/npt": "1\n",
    "/sys/module/kvm_amd/parameters/avic": "N\n",
    "/sys/module/kvm_intel/uevent": "",
    "/proc/cpuinfo": "vendor_id : AuthenticAMD\n",
}
NOTHING = Machine(kernel_release="6.2", smm=False)


def machine(files: dict[str, str], release: str, extensions: dict[int, int] | None = None) -> tuple[Machine, dict[str, str]]:
    """Probe a made-up system."""
    return probe(System(files.get, lambda cap: (extensions or {}).get(cap, 0), release))


class TestProbe:
    """Facts come from where the kernel says them."""

    def test_intel(self) -> None:
        """A distribution's kernel on Intel, with both address spaces."""
        found, origins = machine(INTEL, "6.8.0-9-generic", {118: 2})
        assert found == Machine(
            kernel_release="6.8.0-9-generic",
            config_external_write_tracking=True,
            tdp=True,
            tdp_mmu=True,
            smm=True,
            vendor="intel",
            unrestricted_guest=False,
            flexpriority=True,
            la57=True,
            max_phys_bits=46,
            total_ram_pages=1024,
        )
        assert origins["config_external_write_tracking"] == "/boot/config-6.8.0-9-generic"
        assert origins["tdp"] == "/sys/module/kvm_intel/parameters/ept"

    def test_amd(self) -> None:
        """With both vendor modules there, the processor decides; the option that is not in the configuration is off."""
        found, _origins = machine(AMD, "6.1.0")
        assert (found.vendor, found.tdp, found.avic, found.config_external_write_tracking) == ("amd", True, False, False)
        assert found.tdp_mmu is None

    def test_other_vendor(self) -> None:
        """Without a vendor parameter the capability that only tdp gives tells, from 6.11 on."""
        found, origins = machine(FILES, RELEASE, EXTENSIONS)
        assert (found.vendor, found.tdp, origins["tdp"]) == ("pvm", False, "KVM_CAP_PRE_FAULT_MEMORY")
        assert machine(FILES, RELEASE, {236: 1})[0].tdp is True
        assert machine(FILES, "6.10.3", EXTENSIONS)[0].tdp is None

    def test_nothing_is_made_up(self) -> None:
        """A system that says nothing leaves every fact unknown but the release and what the VM answered."""
        found, origins = machine({}, "6.2")
        assert found == NOTHING
        assert set(origins) == set(PROBES)
        assert all(origins.values())

    @pytest.mark.parametrize("text", ["", "maybe", "Y N"])
    def test_odd_parameters(self, text: str) -> None:
        """A parameter that is neither yes nor no is not known."""
        assert machine({"/sys/module/kvm/parameters/tdp_mmu": text}, "6.2")[0].tdp_mmu is None

    def test_facts_are_those_of_the_header(self) -> None:
        """Every fact of a machine has a probe, but for the page size, which x86 fixes."""
        assert {*PROBES, "page_size_bytes"} == {field.name for field in attrs.fields(Machine)}


class TestDevice:
    """The probe has a VM of its own."""

    def test_closes_its_vm(self) -> None:
        """Nothing of it stays."""
        kernel = FakeKernel()
        found, _origins = probe_device(kernel, RELEASE, FILES.get)
        assert (found.smm, found.vendor, kernel.open_fds) == (False, "pvm", 0)

    def test_no_vm(self) -> None:
        """A kernel that makes no VM can not be asked."""

        class Busy(FakeKernel):
            def ioctl(self, fd: int, request: int, argument: Argument) -> int:
                return -16 if request == 0xAE01 else super().ioctl(fd, request, argument)

        with pytest.raises(NoKernelError, match="KVM_CREATE_VM gives -EBUSY"):
            probe_device(Busy(), RELEASE, FILES.get)


class TestReadText:
    """Small files are read as text."""

    def test_reads(self, tmp_path: Path) -> None:
        """Plain and compressed ones; none where there is none."""
        (tmp_path / "a").write_text("plain\n")
        (tmp_path / "b.gz").write_bytes(gzip.compress(b"packed\n"))
        (tmp_path / "c.gz").write_bytes(b"not packed\n")
        assert [read_text(str(tmp_path / name)) for name in ("a", "b.gz", "c.gz", "d", ".")] == [
            "plain\n",
            "packed\n",
            None,
            None,
            None,
        ]
