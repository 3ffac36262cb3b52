"""Decode the role word of a shadow page: which address space it belongs to, whose tables it shadows, whether it counts.

Source: arch/x86/include/asm/kvm_host.h union kvm_mmu_page_role [6.1, 6.12, 6.18]: bit fields from the lowest bit up, smm in the
highest byte by itself. Bit 4 had the opposite meaning (gpte_is_8_bytes) before 5.19, passthrough came with 5.19 and is_mirror
(TDX) later; the fields that are read here have been at these bits since guest_mode came with 4.20.
"""

from typing import Final

import attrs

from replay.runs import ACCOUNT, UNACCOUNT

ROLE_BITS: Final[dict[str, tuple[int, int]]] = {
    "level": (0, 4),
    "has_4_byte_gpte": (4, 1),
    "quadrant": (5, 2),
    "direct": (7, 1),
    "access": (8, 3),
    "invalid": (11, 1),
    "efer_nx": (12, 1),
    "cr0_wp": (13, 1),
    "smep_andnot_wp": (14, 1),
    "smap_andnot_wp": (15, 1),
    "ad_disabled": (16, 1),
    "guest_mode": (17, 1),
    "passthrough": (18, 1),
    "is_mirror": (19, 1),
    "unused": (20, 4),
    "smm": (24, 8),
}
"""Field -> (lowest bit, number of bits); together they are the 32 bits of the word."""
WORD_MAX: Final = 0xFFFFFFFF
LEVEL_MAX: Final = 5
AS_ID_MAX: Final = 1
"""KVM_MAX_NR_ADDRESS_SPACES is 2 on x86: SMM is the second one."""


@attrs.frozen
class Role:
    """What of a role word the model needs; as_id: role.smm. invalid: a root that was zapped while in use, zapped again."""

    level: int
    direct: bool
    invalid: bool
    guest_mode: bool
    passthrough: bool
    as_id: int


def field(word: int, name: str) -> int:
    """Return one field of a role word.

    >>> field(0x3704, "level"), field(0x3F04, "invalid"), field(0x01003704, "smm")
    (4, 1, 1)
    """
    shift, width = ROLE_BITS[name]
    return word >> shift & (1 << width) - 1


def role_of(word: int) -> Role | None:
    """Return the role that a word says, None for a word that no x86 KVM makes: no level 1 to 5, address space above 1."""
    level, as_id = field(word, "level"), field(word, "smm")
    if not (0 <= word <= WORD_MAX and 1 <= level <= LEVEL_MAX and as_id <= AS_ID_MAX):
        return None
    return Role(
        level=level,
        direct=bool(field(word, "direct")),
        invalid=bool(field(word, "invalid")),
        guest_mode=bool(field(word, "guest_mode")),
        passthrough=bool(field(word, "passthrough")),
        as_id=as_id,
    )


def accounts(role: Role, *, made: bool) -> int:
    """Return what a new page, or the zap of one, does to the counts: ACCOUNT, UNACCOUNT, or 0 for nothing.

    Source: arch/x86/kvm/mmu/mmu.c sp_has_gptes(): a page that is direct or passthrough shadows no guest table;
    __kvm_mmu_prepare_zap_page(): a page that is invalid already was taken back by its first zap.
    """
    if role.direct or role.passthrough:
        return 0
    if made:
        return ACCOUNT
    return 0 if role.invalid else UNACCOUNT
