"""Promises of docs/errors.md."""

from pathlib import Path

import pytest
from errors_page import errors_page, meaning

from replay.errors import KvmReplayError, catalogue

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "errors.md"


class TestErrorsPage:
    """The page says what the classes say."""

    def test_is_generated_from_the_classes(self) -> None:
        """The page is exactly what the classes give: `python tests/docs/errors_page.py > docs/errors.md` renews it."""
        assert PAGE.read_text() == errors_page(catalogue())

    @pytest.mark.parametrize("cls", catalogue(), ids=lambda cls: cls.__name__)
    def test_every_class_is_explained(self, cls: type[KvmReplayError]) -> None:
        """Each error has a code, a title, a meaning and a remedy of its own."""
        own = {name: vars(cls).get(name) for name in ("code", "title", "remedy", "__doc__")}
        assert all(own.values()), own
        assert meaning(cls).endswith(".")

    def test_codes_are_unique(self) -> None:
        """No two errors share a code or a title, and codes have one form."""
        classes = catalogue()
        assert len({cls.code for cls in classes}) == len(classes) >= 20
        assert len({cls.title for cls in classes}) == len(classes)
        assert all(cls.code.startswith("KVR") and cls.code[3:].isdecimal() and len(cls.code) == 6 for cls in classes)

    def test_a_missing_class_shows(self) -> None:
        """The page without one class is another page: the comparison above can fail."""
        assert errors_page(catalogue()[:-1]) != errors_page(catalogue())
