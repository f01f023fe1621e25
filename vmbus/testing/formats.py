"""Every declared format, and hypothesis strategies for sound values of each.

A value is drawn field by field in wire order: what an expression reads (counts, lengths, tags) is drawn small, so that
lists stay short, and tails are then drawn to fit it.  Enumerations and flags also get values that nobody declared.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
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
def _value(draw: st.DrawFn, fmt: type[Format], *, small: bool = False) -> Any:
    drawn = _Drawn(fmt, small)
    for field in fmt.FIELDS:
        if field.is_stored:
            setattr(drawn.values, field.name, draw(drawn.strategy(field)))
            drawn.settled |= _names(field)
    return fmt(**vars(drawn.values))


def _names(field: Field) -> set[str]:
    """The fields that a field's expressions read."""
    texts = (field.count, field.length, field.on, field.offset)
    return set().union(*(names_in(text) for text in texts if text is not None))


class _Drawn:
    """A value while it is drawn: the fields so far, and those that must not change any more."""

    def __init__(self, fmt: type[Format], small: bool) -> None:
        self.values = SimpleNamespace()
        self.settled: set[str] = set()
        self.small = small
        self.read = set().union(*(_names(field) for field in fmt.FIELDS))
        self.tags = {f.on: sorted(f.cases) for f in fmt.FIELDS if f.on is not None and f.cases is not None}
        for field in fmt.FIELDS:
            if field.on is not None and field.cases is not None:
                self.tags |= {name: sorted(field.cases) for name in names_in(field.on)}

    def strategy(self, field: Field) -> st.SearchStrategy[Any]:
        match field.kind:
            case Kind.INT | Kind.BITS:
                small = self.small or field.name in self.read
                return integers_of(field, small=small, tags=self.tags.get(field.name, []))
            case Kind.NESTED:
                return _value(_format(field.element), small=field.name in self.read)
            case Kind.ARRAY:
                return _elements(field.element, field.number, field.number)
            case Kind.ITEMS:
                return self._items(field)
            case Kind.BLOB:
                return self._fitting(field.length, st.binary(max_size=24))
            case Kind.VARIANT:
                return self._body(field)
            case Kind.REST:
                return st.binary(max_size=24)
        return _scalar(field)

    def _items(self, field: Field) -> st.SearchStrategy[Any]:
        element = field.element
        if field.count is not None:
            number = reader(field.count)(self.values)
            return _elements(element, number, number) if 0 <= number <= MOST_BYTES else st.nothing()
        if field.length is None:
            return _elements(element, 0, 3)
        if names_in(field.length) - self.settled:
            return self._fitting(field.length, _elements(element, 0, 3), element)
        number, left = divmod(reader(field.length)(self.values), _size_of_one(element))
        return _elements(element, number, number) if not left and 0 <= number <= MOST_BYTES else st.nothing()

    def _body(self, field: Field) -> st.SearchStrategy[Any]:
        assert field.on is not None and field.cases is not None
        found = field.cases.get(reader(field.on)(self.values), ())
        bodies = [_value(fmt) for fmt in (found if isinstance(found, tuple) else (found,))]
        if field.length is not None:
            return self._fitting(field.length, st.one_of(*bodies, st.binary(max_size=24)))
        return st.one_of(bodies) if bodies else st.binary(max_size=24)

    def _fitting(
        self, length: str | None, drawn: st.SearchStrategy[Any], element: Any = None
    ) -> st.SearchStrategy[Any]:
        """What is drawn, with the fields that its length expression reads changed to fit; or bytes of that length."""
        assert length is not None
        size = reader(length)(self.values)
        if names_in(length) - self.settled:
            return drawn.filter(lambda value: self._settle(length, _size(value, element)))
        exact = st.binary(min_size=max(size, 0), max_size=max(size, 0))
        return exact if 0 <= size <= MOST_BYTES else st.nothing()

    def _settle(self, length: str, wanted: int) -> bool:
        value_of = reader(length)
        for name in sorted(names_in(length) - self.settled):
            before = getattr(self.values, name)
            if not isinstance(before, int):
                continue
            for candidate in range(MOST_BYTES):
                setattr(self.values, name, candidate)
                if value_of(self.values) == wanted:
                    return True
            setattr(self.values, name, before)
        return bool(value_of(self.values) == wanted)


def _size(value: Any, element: Any) -> int:
    """Bytes of a tail's value; ``element`` is what a list is made of."""
    if not isinstance(value, tuple):
        return len(bytes(value))
    return sum(len(bytes(item)) if isinstance(item, Format) else element.size for item in value)


def _size_of_one(element: Any) -> int:
    return max(element.size if isinstance(element, Field) else element.SIZE, 1)


def _format(element: Any) -> type[Format]:
    assert isinstance(element, FormatMeta)
    found: type[Format] = element  # type: ignore[assignment]
    return found


def _scalar(field: Field) -> st.SearchStrategy[Any]:
    match field.kind:
        case Kind.GUID:
            return st.uuids()
        case Kind.RAW | Kind.PAD:
            start = min(field.size, 32)
            return st.binary(min_size=start, max_size=start).map(lambda some: some.ljust(field.size, b"\0"))
    return integers_of(field)


def integers_of(field: Field, *, small: bool = False, tags: Iterable[int] = ()) -> st.SearchStrategy[int]:
    """Integers that fit the field, known and unknown to its enumeration; ``small`` ones, or ``tags``, if asked."""
    width = field.width or field.size * 8
    least = -(1 << width - 1) if field.signed else 0
    most = (1 << width - (1 if field.signed else 0)) - 1
    known = [int(member) for member in field.values or ()] if not small else []
    choices = [st.integers(0, min(most, 40)) if small else st.integers(least, most)]
    fitting = [value for value in (*tags, *known) if least <= value <= most]
    if fitting:
        choices.insert(0, st.sampled_from(fitting))
    drawn = st.one_of(choices)
    return drawn.map(field.values) if field.values is not None else drawn


def _elements(element: Any, least: int, most: int) -> st.SearchStrategy[Any]:
    one = _scalar(element) if isinstance(element, Field) else _value(_format(element))
    if least > 8:  # as many as that are drawn as repetitions of a few
        return st.lists(one, min_size=3, max_size=3).map(lambda few: tuple((few * most)[:most]))
    return st.lists(one, min_size=least, max_size=most).map(tuple)


def unheard_of(values: Any) -> Iterator[int]:
    """Integers of eight bits and more that an enumeration does not name, or that have bits that flags do not name."""
    known = {int(member) for member in values}
    if issubclass(values, OpenFlags):
        yield from (1 << bit for bit in range(64) if 1 << bit not in known)
    else:
        yield from (value for value in range(len(known) + 300) if value not in known)
