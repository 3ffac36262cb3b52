"""Name the KVM ioctls: numbers, names as strace prints them, and on which kind of fd they work.

Source: include/uapi/linux/kvm.h (numbers computed with _IOC of type 0xAE on x86-64, Linux 6.12) and
arch/x86/include/uapi/asm/kvm.h; VFIO's two: include/uapi/linux/vfio.h (type ';', base 100). Direction bits
differ per call, so only whole numbers are compared.
"""

import re
from typing import Final

KVM_CREATE_VM: Final = 0xAE01
KVM_CHECK_EXTENSION: Final = 0xAE03
KVM_CREATE_VCPU: Final = 0xAE41
KVM_GET_DIRTY_LOG: Final = 0x4010AE42
KVM_SET_NR_MMU_PAGES: Final = 0xAE44
KVM_SET_USER_MEMORY_REGION: Final = 0x4020AE46
KVM_SET_TSS_ADDR: Final = 0xAE47
KVM_SET_IDENTITY_MAP_ADDR: Final = 0x4008AE48
KVM_SET_USER_MEMORY_REGION2: Final = 0x40A0AE49
KVM_CREATE_IRQCHIP: Final = 0xAE60
KVM_RUN: Final = 0xAE80
KVM_ENABLE_CAP: Final = 0x4068AEA3
KVM_CLEAR_DIRTY_LOG: Final = 0xC018AEC0
KVM_GET_STATS_FD: Final = 0xAECE
KVM_CREATE_GUEST_MEMFD: Final = 0xC040AED4
KVM_PRE_FAULT_MEMORY: Final = 0xC040AED5
KVM_CREATE_DEVICE: Final = 0xC00CAEE0
KVM_SET_DEVICE_ATTR: Final = 0x4018AEE1
KVM_HAS_DEVICE_ATTR: Final = 0x4018AEE3
KVM_GET_DEVICE_ATTR: Final = 0x4018AEE2
VFIO_GROUP_GET_DEVICE_FD: Final = 0x3B6A
VFIO_DEVICE_BIND_IOMMUFD: Final = 0x3B76
FIOCLEX: Final = 0x5451
FIONCLEX: Final = 0x5450

NUMBERS: Final[dict[str, int]] = {
    "KVM_GET_API_VERSION": 0xAE00,
    "KVM_CREATE_VM": KVM_CREATE_VM,
    "KVM_GET_MSR_INDEX_LIST": 0xC004AE02,
    "KVM_CHECK_EXTENSION": KVM_CHECK_EXTENSION,
    "KVM_GET_VCPU_MMAP_SIZE": 0xAE04,
    "KVM_GET_SUPPORTED_CPUID": 0xC008AE05,
    "KVM_GET_EMULATED_CPUID": 0xC008AE09,
    "KVM_GET_MSR_FEATURE_INDEX_LIST": 0xC004AE0A,
    "KVM_CREATE_VCPU": KVM_CREATE_VCPU,
    "KVM_GET_DIRTY_LOG": KVM_GET_DIRTY_LOG,
    "KVM_SET_NR_MMU_PAGES": KVM_SET_NR_MMU_PAGES,
    "KVM_GET_NR_MMU_PAGES": 0xAE45,
    "KVM_SET_USER_MEMORY_REGION": KVM_SET_USER_MEMORY_REGION,
    "KVM_SET_TSS_ADDR": KVM_SET_TSS_ADDR,
    "KVM_SET_IDENTITY_MAP_ADDR": KVM_SET_IDENTITY_MAP_ADDR,
    "KVM_SET_USER_MEMORY_REGION2": KVM_SET_USER_MEMORY_REGION2,
    "KVM_CREATE_IRQCHIP": KVM_CREATE_IRQCHIP,
    "KVM_IRQ_LINE": 0x4008AE61,
    "KVM_GET_IRQCHIP": 0xC208AE62,
    "KVM_SET_IRQCHIP": 0x8208AE63,
    "KVM_CREATE_PIT": 0xAE64,
    "KVM_GET_PIT": 0xC048AE65,
    "KVM_SET_PIT": 0x8048AE66,
    "KVM_REGISTER_COALESCED_MMIO": 0x4010AE67,
    "KVM_IRQ_LINE_STATUS": 0xC008AE67,
    "KVM_UNREGISTER_COALESCED_MMIO": 0x4010AE68,
    "KVM_SET_GSI_ROUTING": 0x4008AE6A,
    "KVM_REINJECT_CONTROL": 0xAE71,
    "KVM_IRQFD": 0x4020AE76,
    "KVM_CREATE_PIT2": 0x4040AE77,
    "KVM_SET_BOOT_CPU_ID": 0xAE78,
    "KVM_IOEVENTFD": 0x4040AE79,
    "KVM_XEN_HVM_CONFIG": 0x4038AE7A,
    "KVM_SET_CLOCK": 0x4030AE7B,
    "KVM_GET_CLOCK": 0x8030AE7C,
    "KVM_RUN": KVM_RUN,
    "KVM_GET_REGS": 0x8090AE81,
    "KVM_SET_REGS": 0x4090AE82,
    "KVM_GET_SREGS": 0x8138AE83,
    "KVM_SET_SREGS": 0x4138AE84,
    "KVM_TRANSLATE": 0xC018AE85,
    "KVM_INTERRUPT": 0x4004AE86,
    "KVM_GET_MSRS": 0xC008AE88,
    "KVM_SET_MSRS": 0x4008AE89,
    "KVM_SET_CPUID": 0x4008AE8A,
    "KVM_SET_SIGNAL_MASK": 0x4004AE8B,
    "KVM_GET_FPU": 0x81A0AE8C,
    "KVM_SET_FPU": 0x41A0AE8D,
    "KVM_GET_LAPIC": 0x8400AE8E,
    "KVM_SET_LAPIC": 0x4400AE8F,
    "KVM_SET_CPUID2": 0x4008AE90,
    "KVM_GET_CPUID2": 0xC008AE91,
    "KVM_TPR_ACCESS_REPORTING": 0xC028AE92,
    "KVM_SET_VAPIC_ADDR": 0x4008AE93,
    "KVM_GET_MP_STATE": 0x8004AE98,
    "KVM_SET_MP_STATE": 0x4004AE99,
    "KVM_NMI": 0xAE9A,
    "KVM_SET_GUEST_DEBUG": 0x4048AE9B,
    "KVM_X86_SETUP_MCE": 0x4008AE9C,
    "KVM_X86_GET_MCE_CAP_SUPPORTED": 0x8008AE9D,
    "KVM_X86_SET_MCE": 0x4040AE9E,
    "KVM_GET_VCPU_EVENTS": 0x8040AE9F,
    "KVM_GET_PIT2": 0x8070AE9F,
    "KVM_SET_VCPU_EVENTS": 0x4040AEA0,
    "KVM_SET_PIT2": 0x4070AEA0,
    "KVM_GET_DEBUGREGS": 0x8080AEA1,
    "KVM_SET_TSC_KHZ": 0xAEA2,
    "KVM_SET_DEBUGREGS": 0x4080AEA2,
    "KVM_GET_TSC_KHZ": 0xAEA3,
    "KVM_ENABLE_CAP": KVM_ENABLE_CAP,
    "KVM_GET_XSAVE": 0x9000AEA4,
    "KVM_SIGNAL_MSI": 0x4020AEA5,
    "KVM_SET_XSAVE": 0x5000AEA5,
    "KVM_GET_XCRS": 0x8188AEA6,
    "KVM_SET_XCRS": 0x4188AEA7,
    "KVM_KVMCLOCK_CTRL": 0xAEAD,
    "KVM_SET_PMU_EVENT_FILTER": 0x4020AEB2,
    "KVM_SMI": 0xAEB7,
    "KVM_MEMORY_ENCRYPT_OP": 0xC008AEBA,
    "KVM_MEMORY_ENCRYPT_REG_REGION": 0x8010AEBB,
    "KVM_MEMORY_ENCRYPT_UNREG_REGION": 0x8010AEBC,
    "KVM_GET_NESTED_STATE": 0xC080AEBE,
    "KVM_SET_NESTED_STATE": 0x4080AEBF,
    "KVM_CLEAR_DIRTY_LOG": KVM_CLEAR_DIRTY_LOG,
    "KVM_GET_SUPPORTED_HV_CPUID": 0xC008AEC1,
    "KVM_X86_SET_MSR_FILTER": 0x4188AEC6,
    "KVM_RESET_DIRTY_RINGS": 0xAEC7,
    "KVM_GET_SREGS2": 0x8140AECC,
    "KVM_SET_SREGS2": 0x4140AECD,
    "KVM_GET_STATS_FD": KVM_GET_STATS_FD,
    "KVM_GET_XSAVE2": 0x9000AECF,
    "KVM_SET_MEMORY_ATTRIBUTES": 0x4020AED2,
    "KVM_CREATE_GUEST_MEMFD": KVM_CREATE_GUEST_MEMFD,
    "KVM_PRE_FAULT_MEMORY": KVM_PRE_FAULT_MEMORY,
    "KVM_CREATE_DEVICE": KVM_CREATE_DEVICE,
    "KVM_SET_DEVICE_ATTR": KVM_SET_DEVICE_ATTR,
    "KVM_GET_DEVICE_ATTR": KVM_GET_DEVICE_ATTR,
    "KVM_HAS_DEVICE_ATTR": KVM_HAS_DEVICE_ATTR,
    "VFIO_GROUP_GET_DEVICE_FD": VFIO_GROUP_GET_DEVICE_FD,
    "VFIO_DEVICE_BIND_IOMMUFD": VFIO_DEVICE_BIND_IOMMUFD,
    "FIONCLEX": FIONCLEX,
    "FIOCLEX": FIOCLEX,
}
NAMES: Final[dict[int, str]] = {number: name for name, number in NUMBERS.items()}

_IOC_TEXT: Final = re.compile(r"_IOC\(([A-Z_|0]+), *(0x[0-9a-f]+|\d+), *(0x[0-9a-f]+|\d+), *(0x[0-9a-f]+|\d+)\)")
_DIRECTIONS: Final = {"_IOC_WRITE": 1, "_IOC_READ": 2}


def ioctl_name(number: int) -> str:
    """Return the name of an ioctl number, or the number in hex when it has none here.

    >>> ioctl_name(0x4020AE46), ioctl_name(0x12)
    ('KVM_SET_USER_MEMORY_REGION', '0x12')
    """
    return NAMES.get(number) or f"{number:#x}"


def is_kvm(number: int) -> bool:
    """Say whether an ioctl number is of KVM's type, 0xAE."""
    return (number >> 8) & 0xFF == 0xAE


def ioctl_number(text: str) -> int | None:
    """Return the number of an ioctl as strace prints it, None for one that is neither a number nor known.

    Takes `NAME`, `0x4020ae46`, `0x4020ae46 /* NAME */` (-X verbose) and `_IOC(dir, type, nr, size)`.

    >>> hex(ioctl_number("_IOC(_IOC_WRITE, 0xae, 0x49, 0xa0)"))
    '0x40a0ae49'
    """
    number = NUMBERS.get(text)
    if number is not None:
        return number
    if text[:1].isdecimal():
        return _literal(text.split(" ", 1)[0])
    match = _IOC_TEXT.match(text)
    if match is None:
        return None
    direction = sum(_DIRECTIONS.get(word, 0) for word in match[1].split("|"))
    kind, nr, size = (_literal(part) for part in match.groups()[1:])
    if kind is None or nr is None or size is None:
        return None
    return direction << 30 | (size & 0x3FFF) << 16 | (kind & 0xFF) << 8 | (nr & 0xFF)


def _literal(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None
