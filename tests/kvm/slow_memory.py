"""Count kernel memory for the slow model: what one allocation costs, and which one an injection makes fail.

Plain dicts and loops, written from the kernel's rules alone; nothing of replay.kvm is used.
"""

from typing import Any

PAGE = 4096


def vcalloc_pages(size_bytes: int) -> int:
    """Count data pages by adding one at a time as long as a loop can bear it."""
    pages = 0
    if size_bytes < PAGE * 100:
        while pages * PAGE < size_bytes:
            pages += 1
        return pages
    return (size_bytes + PAGE - 1) // PAGE


def vcalloc_real_bytes(size_bytes: int) -> int:
    """Return data pages plus the array of page pointers, which is a kmalloc up to a page and a vmalloc above."""
    pages = vcalloc_pages(size_bytes)
    pointers = 8 * pages
    if pointers > PAGE:
        return pages * PAGE + vcalloc_real_bytes(pointers)
    for size in (8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096):
        if pointers <= size:
            return pages * PAGE + size
    raise AssertionError(pointers)


class SlowMemory:
    """All live pieces in one list, all injections in another; totals are summed up when asked."""

    def __init__(self, total_ram_pages: int, slot_bytes: int) -> None:
        self.total_ram_pages = total_ram_pages
        self.slot_bytes = slot_bytes
        self.limit: int | None = None
        self.live: list[dict[str, Any]] = []
        self.injections: list[dict[str, Any]] = []
        self.made = 0
        self.failed: list[str] = []

    def inject(self, vm: int | None, site: str, nth: int, count: int) -> None:
        """Make the nth matching attempt fail; an injection replaces the one of the same place."""
        self.injections = [i for i in self.injections if not (i["site"] == site and i["vm"] == vm)]
        self.injections.append({"vm": vm, "site": site, "nth": nth, "count": count, "seen": 0})

    def stop(self, vm: int | None, site: str) -> None:
        """Stop injecting at a place; without a place, everywhere."""
        self.injections = [i for i in self.injections if site and not (i["site"] == site and i["vm"] == vm)]

    def _injected(self, vm: int, caller: str, label: str) -> bool:
        fails = False
        for i in self.injections:
            if i["vm"] is not None and i["vm"] != vm:
                continue
            if i["site"] != "" and i["site"] != caller and i["site"] != label:
                continue
            i["seen"] += 1
            after = i["seen"] - i["nth"]
            if after >= 0 and (i["count"] == 0 or after < i["count"]):
                fails = True
        return fails

    def vcalloc(self, vm: int, caller: str, label: str, size_bytes: int) -> dict[str, Any] | None:
        """Allocate pages; None is -ENOMEM."""
        pages = vcalloc_pages(size_bytes)
        fails = self._injected(vm, caller, label)
        if self.total_ram_pages and pages > self.total_ram_pages:
            fails = True
        if self.limit is not None and pages > self.limit:
            fails = True
        if fails:
            self.failed.append(caller)
            return None
        if self.limit is not None:
            self.limit -= pages
        return self._keep(label, caller, size_bytes, pages, vcalloc_real_bytes(size_bytes))

    def free_of_charge(self, caller: str, label: str, size_bytes: int) -> dict[str, Any]:
        """Allocate pages that nobody is charged for and that no injection sees."""
        return self._keep(label, caller, size_bytes, vcalloc_pages(size_bytes), vcalloc_real_bytes(size_bytes), charged=False)

    def kzalloc(self, vm: int, caller: str) -> dict[str, Any] | None:
        """Allocate a slot object; None is -ENOMEM."""
        if self._injected(vm, caller, "slot"):
            self.failed.append(caller)
            return None
        return self._keep("slot", caller, self.slot_bytes, 0, 512)

    def _keep(self, label: str, caller: str, size_bytes: int, pages: int, real: int, *, charged: bool = True) -> dict[str, Any]:
        self.made += 1
        piece = {"label": label, "caller": caller, "bytes": size_bytes, "pages": pages, "real": real, "live": True}
        piece["charged"] = charged
        self.live.append(piece)
        return piece

    def free(self, piece: dict[str, Any] | None) -> None:
        """Free one piece, which must be live; NULL is allowed."""
        if piece is None:
            return
        assert piece["live"], "freed twice"
        piece["live"] = False
        self.live = [other for other in self.live if other is not piece]
        if self.limit is not None and piece["charged"]:
            self.limit += piece["pages"]

    def totals(self) -> dict[str, list[int]]:
        """Return live pieces, bytes asked for, charged and real, by array."""
        sums: dict[str, list[int]] = {}
        for piece in self.live:
            row = sums.setdefault(piece["label"], [0, 0, 0, 0])
            for index, amount in enumerate((1, piece["bytes"], piece["pages"] * PAGE, piece["real"])):
                row[index] += amount
        return dict(sorted(sums.items()))
