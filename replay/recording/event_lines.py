"""Write an event as one line of text, and read it back: `memslot.set vm=0 slot=1 memory_size=0x1000  # -ENOMEM`.

The kind, then the fields that do not hold their default, in the order of docs/events.md, then the recorded result as a
comment. Addresses, gfns and sizes are hexadecimal, flags stand alone (`inferred`; `table=n` where the default is yes), texts and
nested values are JSON. What a person adds behind the result stays a remark. The form of golden files and of `dump --format
golden`; source positions are not written, tasks and times as `replay.recording.golden_writer` says.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import attrs

from replay.errors import EventError
from replay.events import Event, all_kinds, by_kind
from replay.events.base import VmCall
from replay.recording.fields import Field, expectation, fields_of, misfit, refused, shown
from replay.recording.jsonl_reader import DECODER
from replay.recording.named import nearest, value_of_named, value_to_named
from replay.units import errno_name, errno_number

LEFT_OUT: Final = frozenset({"ret", "source", "task", "time_ns", "enter_time_ns"})
"""Fields that are not written by name: the result is the comment, the others are written in a form of their own or not at all."""
OWN_WORDS: Final = frozenset({"task", "entered"})
"""Words of a line that are no fields: see `golden_writer`."""

_HEX_UNITS: Final = ("bytes", "gfn")
_HEX_NAMES: Final = ("slot", "flags", "cmd", "args")
_HEX_FROM: Final = 1 << 16
_WORD: Final = re.compile(r"\s*([a-z][\w.]*)(=?)")
_BARE: Final = re.compile(r"[^\s#]*")
_NUMBER: Final = re.compile(r"-?(?:0x[0-9a-f]{1,16}|0|[1-9][0-9]{0,19})")
_PLAIN: Final = re.compile(r"[\w.+/-]+", re.ASCII)
_FLAGS: Final = {"y": True, "n": False}
_UNKNOWN: Final = "?"


@attrs.frozen
class EventLine:
    """What one line says. own: the words that are no fields. remark: what stands behind the result."""

    event: Event
    own: dict[str, str]
    remark: str


def result_text(ret: int) -> str:
    """Say a result so that it can be read back: 0, 7, -ENOMEM, -524.

    >>> result_text(-12), result_text(7), result_text(-524)
    ('-ENOMEM', '7', '-524')
    """
    name = errno_name(ret) if ret < 0 else ""
    return f"-{name}" if name and errno_number(name) == -ret else str(ret)


def result_of(word: str) -> int | None:
    """Return the result that a word says, None for "?". Raises EventError for a word that is no result.

    >>> result_of("-ENOMEM"), result_of("?")
    (-12, None)
    """
    if word == _UNKNOWN:
        return None
    if re.fullmatch(r"-?[0-9]{1,19}", word):
        return int(word)
    number = errno_number(word[1:]) if word.startswith("-") else None
    if number is None:
        raise EventError(f"result {shown(word)}", expected="0, a number, the name of an errno such as -ENOMEM, or ?")
    return -number


def line_of_event(event: Event, own: str = "") -> str:
    """Return an event as one line; own: words that stand behind its fields.

    >>> from replay.events import VcpuCreate
    >>> line_of_event(VcpuCreate(vm=0, vcpu_id=1, ret=-12))
    'vcpu.create vm=0 vcpu_id=1  # -ENOMEM'
    """
    words = [event.KIND]
    for field in fields_of(type(event)):
        if field.name not in LEFT_OUT:
            held = getattr(event, field.name)
            if not field.is_default(held):
                words.append(word_of(field, held, event.KIND))
    if own:
        words.append(own)
    ret = getattr(event, "ret", None)
    if ret is None and not isinstance(event, VmCall):
        return " ".join(words)
    return f"{' '.join(words)}  # {_UNKNOWN if ret is None else result_text(ret)}"


def word_of(field: Field, value: Any, kind: str) -> str:
    """Return a field and its value as one word. Raises EventError for a value that the field can not hold."""
    if field.accepts is not None and not field.accepts(value):
        raise refused(field, value, kind)
    spec = field.spec
    if spec.shape == "bool":
        return field.name if value and field.default is not None else f"{field.name}={'y' if value else 'n'}"
    if spec.shape in {"uint", "int"}:
        return f"{field.name}={_number_text(value, field)}"
    if spec.shape == "uints":
        return f"{field.name}={','.join(_number_text(number, field) for number in value)}"
    if spec.shape == "enum" or (spec.shape == "str" and _PLAIN.fullmatch(value)):
        return f"{field.name}={value}"
    return f"{field.name}={_json(field, value, kind)}"


def _json(field: Field, value: Any, kind: str) -> str:
    of = field.spec.of
    if of is None:
        named: Any = value
    elif field.spec.shape == "value":
        named = value_to_named(of, value, f"{kind}.{field.name}")
    else:
        named = [value_to_named(of, item, f"{kind}.{field.name}") for item in value]
    return json.dumps(named, ensure_ascii=True, separators=(",", ":"))


def _number_text(number: int, field: Field) -> str:
    is_hex = field.spec.unit.startswith(_HEX_UNITS) or (field.name in _HEX_NAMES and number >= _HEX_FROM)
    return hex(number) if is_hex else str(number)


def event_of_line(text: str) -> EventLine:
    """Return what a line says. Raises EventError for a line that is none, with the field that does not fit.

    >>> event_of_line("vcpu.create vm=0 vcpu_id=1  # -ENOMEM the limit is reached").remark
    'the limit is reached'
    """
    kind, _, rest = text.strip().partition(" ")
    cls = by_kind(kind)
    if cls is None:
        raise EventError(
            f"event {shown(kind)}", expected="a kind of docs/events.md", advice=nearest(kind, (k.KIND for k in all_kinds()))
        )
    fields = {field.name: field for field in fields_of(cls) if field.name not in LEFT_OUT}
    held: dict[str, Any] = {}
    own: dict[str, str] = {}
    comment = None
    for name, value in words_of(rest, kind):
        if name == "#":
            comment = value
        elif name in held or name in own:
            raise EventError("twice on one line", where=f"{kind}.{name}")
        elif name in OWN_WORDS:
            own[name] = str(value)
        elif name in fields:
            held[name] = value_of_word(fields[name], value, kind)
        else:
            known = ", ".join(fields)
            raise EventError(f"unknown field {shown(name)}", where=kind, expected=f"one of {known}", advice=nearest(name, fields))
    remark = comment or ""
    if comment is not None and "ret" in {field.name for field in fields_of(cls)}:
        word, _, remark = comment.partition(" ")
        held["ret"] = _result(cls, word)
    for field in fields.values():
        if field.required and field.name not in held:
            raise EventError("missing", where=f"{kind}.{field.name}", expected=expectation(field.spec))
    return EventLine(cls(**held), own, remark.strip())


def _result(cls: type[Event], word: str) -> int | None:
    ret = result_of(word)
    (field,) = [field for field in fields_of(cls) if field.name == "ret"]
    if field.accepts is not None and not field.accepts(ret):
        raise refused(field, ret, cls.KIND)
    return ret


def words_of(rest: str, where: str) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of a line, the comment last under "#"; a value is text, JSON, or True for a name alone."""
    place = 0
    while rest[place:].strip():
        if rest[place:].lstrip().startswith("#"):
            yield "#", rest[place:].lstrip()[1:].strip()
            return
        found = _WORD.match(rest, place)
        if found is None:
            raise EventError(f"found {shown(rest[place:].strip())}", where=where, expected="name=value, or a comment behind #")
        name, place = found.group(1), found.end()
        if not found.group(2):
            yield name, True
        elif rest[place : place + 1] in {'"', "[", "{"}:
            try:
                value, place = DECODER.raw_decode(rest, place)
            except EventError as error:
                raise error.at(f"{where}.{name}") from None
            except (ValueError, RecursionError):
                raise EventError(
                    "no JSON that can be read", where=f"{where}.{name}", expected="a text or value in JSON"
                ) from None
            yield name, (value,)
        else:
            bare = _BARE.match(rest, place)
            assert bare is not None
            place = bare.end()
            yield name, bare.group()


def value_of_word(field: Field, word: Any, kind: str) -> Any:
    """Return the value of a field. word: text, True for a flag alone, or JSON in a tuple."""
    where, spec = f"{kind}.{field.name}", field.spec
    value: Any = word
    if isinstance(word, tuple):
        value = _of_json(field, word[0], where)
    elif word == _UNKNOWN and spec.optional:
        return None
    elif word is True:
        value = True if spec.shape == "bool" else ""
    elif spec.shape == "bool":
        value = _FLAGS.get(word, word)
    elif spec.shape in {"uint", "int"}:
        value = _number(word)
    elif spec.shape == "uints":
        value = tuple(_number(part) for part in word.split(","))
    if field.accepts is not None and not field.accepts(value):
        raise refused(field, value if value != "" else "nothing", kind)
    if field.accepts is None and not isinstance(word, tuple):
        raise misfit(where, word, expectation(spec))
    return value


def _of_json(field: Field, named: Any, where: str) -> Any:
    of = field.spec.of
    if of is None:
        return named
    if field.spec.shape == "value":
        return value_of_named(of, named, where)
    if type(named) is not list or len(named) > field.spec.length_max:
        raise misfit(where, named, expectation(field.spec))
    return tuple(value_of_named(of, item, f"{where}[{index}]") for index, item in enumerate(named))


def _number(word: str) -> Any:
    """Return the number that a word says, the word itself when it says none."""
    return int(word, 0) if _NUMBER.fullmatch(word) else word
