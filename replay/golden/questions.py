"""Name the questions that a golden file asks of its recording: a verb with its options, as on the command line."""

import shlex
from typing import Final

import attrs

from replay.engine.lanes import DEFAULT_LANES
from replay.errors import GoldenError, ProfileError
from replay.kvm.profile import parse_facts

COMPARE: Final = "compare"
CHECK: Final = "check"
_OPTIONS: Final = {COMPARE: ("lanes", "profile"), CHECK: ("policy", "profile")}


@attrs.frozen
class Question:
    """One question. verb: compare or check; lanes of the one, policy of the other, "" for the recorded kernel's."""

    verb: str
    lanes: str = ""
    policy: str = ""
    profile: str = ""

    def words(self) -> str:
        """Return its options as they stand behind the verb, in one order."""
        found = ((name, getattr(self, name)) for name in _OPTIONS[self.verb])
        return " ".join(f"--{name} {shlex.quote(text)}" for name, text in found if text)

    def line(self) -> str:
        """Return the line of a golden file that asks it.

        >>> Question("compare", lanes="eager,6.9").line()
        'compare: --lanes eager,6.9'
        """
        return f"{self.verb}: {self.words()}".rstrip()

    def specs(self) -> list[str]:
        """Return the lanes or the policy that it names."""
        text = self.lanes if self.verb == COMPARE else self.policy
        return [spec.strip() for spec in text.split(",") if spec.strip()]


DEFAULT: Final = (Question(COMPARE, lanes=",".join(DEFAULT_LANES)),)
"""What a new golden file asks when nobody says otherwise."""


def question_of(text: str) -> Question:
    """Return the question that a text asks: `compare --lanes eager,on-demand`. Raises GoldenError for one that is none.

    >>> question_of("check: --policy eager").policy
    'eager'
    """
    verb, _, rest = text.partition(" ")
    verb = verb.removesuffix(":")
    if verb not in _OPTIONS:
        raise GoldenError(f"question {text[:60]!r}", expected=f"one of {', '.join(_OPTIONS)}, with its options")
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise GoldenError(f"{text[:60]!r}: {error}".lower(), expected="options as on a command line") from None
    held: dict[str, str] = {}
    while words:
        option, equals, value = words.pop(0).partition("=")
        name = option.removeprefix("--")
        if name not in _OPTIONS[verb] or not option.startswith("--") or name in held or not (equals or words):
            known = ", ".join(f"--{name} VALUE" for name in _OPTIONS[verb])
            raise GoldenError(f"{option[:60]!r} in a question of {verb}", expected=f"each of {known} at most once")
        held[name] = value if equals else words.pop(0)
    if verb == COMPARE:
        held.setdefault("lanes", ",".join(DEFAULT_LANES))
    try:
        parse_facts(held.get("profile", ""))
    except ProfileError as error:
        raise GoldenError(error.found, expected=error.expected) from None
    return Question(verb, **held)
