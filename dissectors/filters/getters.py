"""The values of a field in a record, taken straight from what the codec parses: no tree is built.

A dotted name is compiled once for each format that can hold it: which attributes to follow, through nested formats,
bodies, lists, and bytes that are of a format themselves. A layer that the codec refuses (cut short, or with an
impossible length) still has fields, and the tree has them; so does what only a conversation tells. There, the tree is
searched instead. Both ways find the same values: a tree is what people see, and what they see they can filter for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any
from uuid import UUID

from dissectors.engine.decoded import Decoded
from dissectors.engine.formats import reachable
from dissectors.engine.inside import INSIDE
from dissectors.engine.layers import Inside, Layer, build_tree, rule_for
from dissectors.engine.names import module_name, snake
from dissectors.filters.fields import Type
from vmbus.wire.capture import RecordKind
from vmbus.wire.schema import Field, Format, FormatMeta, Kind, WireError
from vmbus.wire.tree import Node

Collect = Callable[[Any, list[Any]], None]
"""Adds the values that an object of a format holds to a list."""

_TESTS: dict[Type, Callable[[Any], bool]] = {
    Type.NUMBER: lambda value: isinstance(value, int),
    Type.DURATION: lambda value: isinstance(value, int),
    Type.TEXT: lambda value: isinstance(value, bytes),
    Type.BYTES: lambda value: isinstance(value, bytes),
    Type.GUID: lambda value: isinstance(value, UUID),
    Type.GROUP: lambda value: True,
}
_BYTES_LIKE = frozenset({Kind.RAW, Kind.REST, Kind.BLOB, Kind.VARIANT})


@cache
def formats_below(fmt: type[Format]) -> frozenset[type[Format]]:
    """A format and all that it can hold."""
    return frozenset(reachable([fmt]))


class Getter:
    """Finds the values of all fields that a dotted name means.

    The parts before the last one have to occur in order on the way to the field: protocol, module and format of each
    layer and body, and fields on the way. ``matched`` counts how many of them did so far.
    """

    def __init__(self, name: str, kind: Type) -> None:
        *self._way, self._last = name.split(".")
        self._kind = kind
        self._is_wanted = _TESTS[kind]
        self._compiled: dict[tuple[type[Format], int], Collect | None] = {}
        self._of_layer: dict[tuple[type[Format], str], Collect | None] = {}

    def values(self, item: Decoded) -> list[Any]:
        """The values in a record.

        A completion has the fields of its request as well, where it has none of that name: the code of a command and
        the time it took are then found in one record.
        """
        found = self._own(item)
        if not found and item.request is not None and item.kind == RecordKind.PACKET:
            found = self._own(item.request)
        return found

    def can_be_in(self, fmt: type[Format], protocol: str) -> bool:
        """Whether a layer of a format can hold such a field."""
        return self._collector(fmt, protocol) is not None

    def _own(self, item: Decoded) -> list[Any]:
        found: list[Any] = []
        protocol = item.protocol
        for layer in item.layers:
            if layer.format is None:
                continue
            collect = self._collector(layer.format, protocol)
            if layer.within:
                found += self._in_tree(item, layer)
            elif collect is not None:
                self._collect(item, layer, collect, found)
        return found

    def _collect(self, item: Decoded, layer: Layer, collect: Collect, found: list[Any]) -> None:
        assert layer.format is not None
        before = len(found)
        try:
            collect(layer.format.parse(item.data, layer.start, layer.stop), found)
        except WireError:
            del found[before:]
            found += self._in_tree(item, layer)

    def _collector(self, fmt: type[Format], protocol: str) -> Collect | None:
        key = fmt, protocol
        if key not in self._of_layer:
            matched = self._after(0, ("vmbus", protocol, module_name(fmt), snake(fmt.__name__)))
            self._of_layer[key] = self._compile(fmt, matched)
        return self._of_layer[key]

    def _after(self, matched: int, path: Iterable[str]) -> int:
        for part in path:
            if matched < len(self._way) and part == self._way[matched]:
                matched += 1
        return matched

    # Compiling

    def _compile(self, fmt: type[Format], matched: int) -> Collect | None:
        key = fmt, matched
        if key in self._compiled:
            return self._compiled[key]
        if not self._is_below(fmt):
            self._compiled[key] = None
            return None
        # A format that holds itself finds this while it is compiled.
        self._compiled[key] = lambda value, found: (self._compiled[key] or _nothing)(value, found)
        steps = [step for field in fmt.FIELDS for step in self._steps(fmt, field, matched)]
        self._compiled[key] = _together(steps)
        return self._compiled[key]

    def _steps(self, fmt: type[Format], field: Field, matched: int) -> Iterator[Collect]:
        is_list = field.kind is Kind.LOCATED and isinstance(field.element, FormatMeta)
        if self._kind is Type.GROUP or self._last == "padding" or (is_list and self._is_at_or_below(field)):
            yield _refuse  # the tree knows
            return
        if field.name == self._last and matched == len(self._way):
            yield self._leaf(field)
        matched = self._after(matched, (field.name,))
        rule = rule_for(fmt, field.name, INSIDE)
        if rule is not None and field.kind in _BYTES_LIKE:
            yield from self._inside(fmt, field, rule, matched)
        match field.kind:
            case Kind.NESTED:
                assert isinstance(field.element, FormatMeta)
                yield from _followed(field.name, self._body(field.element, matched))
            case Kind.VARIANT:
                bodies = {body: self._body(body, matched) for body in _cases(field)}
                yield from _chosen(field.name, {body: found for body, found in bodies.items() if found is not None})
            case Kind.ARRAY | Kind.ITEMS if isinstance(field.element, FormatMeta):
                yield from _each(field.name, self._body(field.element, matched))

    def _is_below(self, fmt: type[Format]) -> bool:
        return any(field.name == self._last for below in formats_below(fmt) for field in below.FIELDS)

    def _is_at_or_below(self, field: Field) -> bool:
        element: Any = field.element
        return field.name == self._last or self._is_below(element)

    def _body(self, fmt: Any, matched: int) -> Collect | None:
        return self._compile(fmt, self._after(matched, (module_name(fmt), snake(fmt.__name__))))

    def _leaf(self, field: Field) -> Collect:
        name, wanted = field.name, self._is_wanted
        if field.kind in (Kind.ARRAY, Kind.ITEMS):
            text = field.element.text if isinstance(field.element, Field) else ""

            def elements(value: Any, found: list[Any]) -> None:
                found += [_shown(one, text) for one in getattr(value, name) if wanted(one)]

            return elements
        text = field.text

        def leaf(value: Any, found: list[Any]) -> None:
            one = getattr(value, name)
            if wanted(one):
                found.append(_shown(one, text))

        return leaf

    def _inside(self, fmt: type[Format], field: Field, rule: Inside, matched: int) -> Iterator[Collect]:
        """Bytes that are of a format, which the rule chooses."""
        formats = {*rule.cases.values(), *([rule.default] if rule.default else [])}
        bodies = {
            body: self._compile(body, self._after(matched, (body.__name__, module_name(body), snake(body.__name__))))
            for body in formats
        }
        if not any(bodies.values()):
            return
        name = field.name
        beside = tuple(f.name for f in fmt.FIELDS if f.kind in (Kind.INT, Kind.BITS)) if rule.on is not None else ()

        def inside(value: Any, found: list[Any]) -> None:
            raw = getattr(value, name)
            if isinstance(raw, bytes):
                chosen = rule.choose(raw, 0, len(raw), {other: getattr(value, other) for other in beside})
                collect = bodies.get(chosen) if chosen is not None else None
                if collect is not None and chosen is not None:
                    collect(chosen.parse(raw), found)

        yield inside

    # The tree

    def _in_tree(self, item: Decoded, layer: Layer) -> list[Any]:
        assert layer.format is not None
        own = ("vmbus", item.protocol, module_name(layer.format), snake(layer.format.__name__))
        (node,) = build_tree(item.data, [layer], INSIDE).children
        return list(self._search(node, self._after(0, own)))

    def _search(self, node: Node, matched: int) -> Iterator[Any]:
        for child in node.children:
            if child.name == self._last and matched == len(self._way):
                for leaf in _leaves(child):
                    if self._is_wanted(leaf.value):
                        yield _shown(leaf.value, leaf.field.text if leaf.field is not None else "")
            if child.children:
                below = self._after(matched, (child.name,))
                if child.format is not None:
                    below = self._after(below, (module_name(child.format), snake(child.format.__name__)))
                yield from self._search(child, below)


def _cases(field: Field) -> Iterator[type[Format]]:
    for found in (field.cases or {}).values():
        yield from found if isinstance(found, tuple) else (found,)


def _nothing(value: Any, found: list[Any]) -> None:
    pass


def _refuse(value: Any, found: list[Any]) -> None:
    raise WireError("only the tree has this")


def _together(steps: list[Collect]) -> Collect | None:
    if len(steps) < 2:
        return steps[0] if steps else None

    def collect(value: Any, found: list[Any]) -> None:
        for step in steps:
            step(value, found)

    return collect


def _followed(name: str, body: Collect | None) -> Iterator[Collect]:
    if body is not None:
        yield lambda value, found: body(getattr(value, name), found)


def _chosen(name: str, bodies: dict[type[Format], Collect]) -> Iterator[Collect]:
    def collect(value: Any, found: list[Any]) -> None:
        one = getattr(value, name)
        body = bodies.get(type(one))
        if body is not None:
            body(one, found)

    if bodies:
        yield collect


def _each(name: str, body: Collect | None) -> Iterator[Collect]:
    def collect(value: Any, found: list[Any]) -> None:
        for one in getattr(value, name):
            assert body is not None
            body(one, found)

    if body is not None:
        yield collect


def _leaves(node: Node) -> Iterator[Node]:
    """A field, or the elements of a list of numbers."""
    if node.value is None and node.children and node.children[0].name == "[0]":
        yield from node.children
    else:
        yield node


def _shown(value: Any, text: str) -> Any:
    """A value as filters compare it: text without its padding."""
    return value.decode(text, "replace").split("\0")[0] if text and isinstance(value, bytes) else value
