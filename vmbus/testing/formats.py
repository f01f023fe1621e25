"""Every declared format, and hypothesis strategies for sound values of each.

A value is drawn field by field in wire order: what an expression reads (counts, lengths, tags) is drawn small, so that
lists stay short, and tails are then drawn to fit it.  Enumerations and flags also get values that nobody declared.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st

import vmbus.wire
from vmbus.wire.enums import OpenFlags
from vmbus.wire.expression import names_in, reader
from vmbus.wire.schema import Field, Format, FormatMeta, Kind

MOST_BYTES = 512
"""Bytes and elements of a tail are kept below this."""


def all_formats() -> list[type[Format]]:
    """Every format declared anywhere under ``vmbus.wire``, by module and name."""
    for module in pkgutil.walk_packages(vmbus.wire.__path__, "vmbus.wire."):
        importlib.import_module(module.name)
    found = {fmt for fmt in _below(Format) if fmt.__module__.startswith("vmbus.wire.")}
    return sorted(found, key=lambda fmt: (fmt.__module__, fmt.__qualname__))


def _below(fmt: type[Format]) -> Iterator[type[Format]]:
    for sub in fmt.__subclasses__():
        yield sub
        yield from _below(sub)


def values_of(fmt: type[Format]) -> st.SearchStrategy[Any]:
    """Sound values of a format: they build, and parse back to the same bytes."""
    return _value(fmt)


@st.composite
def _value(draw: st.DrawFn, fmt: type[Format], depth: int = 0) -> Any:
    small = names_read(fmt)
    scope = SimpleNamespace()
    for field in fmt.FIELDS:
        if field.is_stored:
            setattr(scope, field.name, draw(_field(field, scope, small, depth)))
    return fmt(**vars(scope))


def names_read(fmt: type[Format]) -> dict[str, set[int]]:
    """The fields that expressions of a format read, each with the tags that a variant knows for it."""
    found: dict[str, set[int]] = {}
    for field in fmt.FIELDS:
        for text in (field.count, field.length, field.on, field.offset):
            if text is None:
                continue
            for name in names_in(text):
                found.setdefault(name, set())
            if text is field.on and text in found and field.cases:
                found[text] |= set(field.cases)
    return found


def _field(field: Field, scope: SimpleNamespace, small: dict[str, set[int]], depth: int) -> st.SearchStrategy[Any]:
    match field.kind:
        case Kind.INT | Kind.BITS:
            return integers_of(field, small.get(field.name))
        case Kind.GUID:
            return st.uuids()
        case Kind.RAW | Kind.PAD:
            start = min(field.size, 32)
            return st.binary(min_size=start, max_size=start).map(lambda some: some.ljust(field.size, b"\0"))
        case Kind.NESTED:
            return _value(_format(field.element), depth + 1)
        case Kind.ARRAY:
            return _elements(field.element, field.number, field.number, depth)
        case Kind.ITEMS:
            return _items(field, scope, depth)
        case Kind.BLOB:
            return _exactly(_bound(field.length, scope))
        case Kind.VARIANT:
            return _body(field, scope, depth)
    return st.binary(max_size=24)


def _format(element: Any) -> type[Format]:
    assert isinstance(element, FormatMeta)
    found: type[Format] = element  # type: ignore[assignment]
    return found


def integers_of(field: Field, tags: set[int] | None = None) -> st.SearchStrategy[int]:
    """Integers that fit the field; few and small (or one of ``tags``) if expressions read it."""
    width = field.width or field.size * 8
    least = -(1 << width - 1) if field.signed else 0
    most = (1 << width - (1 if field.signed else 0)) - 1
    choices: list[st.SearchStrategy[int]] = []
    if tags is not None:
        choices.append(st.integers(0, min(most, 40)))
        fitting = sorted(tag for tag in tags if least <= tag <= most)
        if fitting:
            choices.append(st.sampled_from(fitting))
    else:
        choices.append(st.integers(least, most))
        if field.values is not None:
            choices.append(st.sampled_from([int(member) for member in field.values if least <= member <= most] or [0]))
    drawn = st.one_of(choices[::-1])
    return drawn.map(field.values) if field.values is not None else drawn


def _elements(element: Any, least: int, most: int, depth: int) -> st.SearchStrategy[Any]:
    is_field = isinstance(element, Field)
    one = _field(element, SimpleNamespace(), {}, depth) if is_field else _value(_format(element), depth + 1)
    if least > 8:  # as many as that are drawn as repetitions of a few
        return st.lists(one, min_size=3, max_size=3).map(lambda few: tuple((few * most)[:most]))
    return st.lists(one, min_size=least, max_size=most).map(tuple)


def _bound(text: str | None, scope: SimpleNamespace) -> int | None:
    """The value of a length or count; None if no sound tail has it."""
    assert text is not None
    value = reader(text)(scope)
    return value if 0 <= value <= MOST_BYTES else None


def _exactly(size: int | None) -> st.SearchStrategy[bytes]:
    return st.nothing() if size is None else st.binary(min_size=size, max_size=size)


def _items(field: Field, scope: SimpleNamespace, depth: int) -> st.SearchStrategy[Any]:
    if field.count is not None:
        number = _bound(field.count, scope)
        return st.nothing() if number is None else _elements(field.element, number, number, depth)
    if field.length is None:
        return _elements(field.element, 0, 3, depth)
    length, element = field.length, field.element
    least = element.size if isinstance(element, Field) else _format(element).SIZE
    return _elements(element, 0, 3, depth).filter(
        lambda found: _settle(scope, length, sum(len(bytes(v)) if isinstance(v, Format) else least for v in found))
    )


def _settle(scope: SimpleNamespace, text: str, wanted: int) -> bool:
    """Change a field that a length expression reads so that the length is ``wanted``."""
    value_of = reader(text)
    for name in sorted(names_in(text)):
        before = getattr(scope, name)
        if not isinstance(before, int):
            continue
        for candidate in range(MOST_BYTES):
            setattr(scope, name, candidate)
            if value_of(scope) == wanted:
                return True
        setattr(scope, name, before)
    return False


def _body(field: Field, scope: SimpleNamespace, depth: int) -> st.SearchStrategy[Any]:
    assert field.on is not None and field.cases is not None
    found = field.cases.get(reader(field.on)(scope), ())
    candidates = found if isinstance(found, tuple) else (found,)
    bodies = [_value(fmt, depth + 1) for fmt in candidates]
    if field.length is not None:
        length = field.length
        body = st.one_of(*bodies, st.binary(max_size=24))
        return body.filter(lambda found: _settle(scope, length, len(bytes(found))))
    return st.one_of(bodies) if bodies else st.binary(max_size=24)


def unheard_of(values: Any) -> Iterator[int]:
    """Integers of eight bits and more that an enumeration does not name, or that have bits that flags do not name."""
    known = {int(member) for member in values}
    if issubclass(values, OpenFlags):
        yield from (1 << bit for bit in range(64) if 1 << bit not in known)
    else:
        yield from (value for value in range(len(known) + 300) if value not in known)
