"""The decode tree of a format: every field with its value and the bytes it came from, for people and for oracles.

Unlike the codec it never raises: a format cut short yields the fields that are there and a node that says what is
missing.  It interprets the declaration field by field, so it also checks the generated codec in the tests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace
from uuid import UUID

from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.expression import evaluate, expression
from vmbus.wire.schema import Buffer, Field, Format, FormatMeta, Kind
from vmbus.wire.tail import choose


@dataclasses.dataclass(slots=True)
class Node:
    """One line of a decode tree.  ``offset`` and ``size`` are bytes in the data that was walked."""

    name: str
    value: object
    offset: int
    size: int
    field: Field | None = None
    children: list[Node] = dataclasses.field(default_factory=list)
    problem: str = ""
    format: type[Format] | None = None
    """The format whose fields the children are."""

    def __iter__(self) -> Iterator[Node]:
        """This node and all below it, in order."""
        yield self
        for child in self.children:
            yield from child

    def find(self, name: str) -> Node | None:
        """The first node of that name at or below this one."""
        return next((node for node in self if node.name == name), None)

    def problems(self) -> list[str]:
        """What is wrong at or below this node, as lines."""
        return [node.problem for node in self if node.problem]


def walk(
    fmt: type[Format], data: Buffer, offset: int = 0, end: int | None = None, *, name: str = ""
) -> tuple[Node, int]:
    """The tree of one format at ``data[offset:end]`` and where it ended."""
    stop = len(data) if end is None else min(end, len(data))
    node = Node(name or fmt.__name__, None, offset, 0, format=fmt)
    position = _walk_fields(fmt, data, offset, stop, node)
    node.size = position - offset
    return node, position


def _walk_fields(fmt: type[Format], data: Buffer, start: int, stop: int, node: Node) -> int:
    scope: dict[str, object] = {}
    position = container_at = start
    for fld in fmt.FIELDS:
        if fld.is_head and fld.size > stop - position:
            left = stop - position
            problem = f"{fmt.__name__} is cut short: {fld.name} needs {fld.size} bytes, {left} are left"
            node.children.append(Node(fld.name, bytes(data[position:stop]), position, left, fld, problem=problem))
            return stop
        match fld.kind:
            case Kind.INT | Kind.GUID | Kind.RAW | Kind.PAD:
                scope[fld.name] = value = _scalar(fld, data, position)
                node.children.append(Node(fld.name, value, position, fld.size, fld))
                position += fld.size
            case Kind.BITS:
                if fld.size:
                    container_at, position = position, position + fld.size
                scope[fld.name] = value = _bit_field(fld, data, container_at)
                node.children.append(Node(fld.name, value, container_at, fld.container, fld))
            case Kind.NESTED:
                assert isinstance(fld.element, FormatMeta)
                child, position = walk(fld.element, data, position, position + fld.size, name=fld.name)
                child.field = fld
                node.children.append(child)
                scope[fld.name] = _namespace(child)
            case Kind.ARRAY:
                position = _walk_list(fld, data, position, position + fld.size, fld.number, node)
            case Kind.LOCATED:
                node.children.append(_walk_located(fmt, fld, data, start, stop, scope))
            case _:
                position = _walk_tail(fmt, fld, data, position, stop, scope, node)
    return position


def _scalar(fld: Field, data: Buffer, at: int) -> object:
    raw = bytes(data[at : at + fld.size])
    match fld.kind:
        case Kind.INT:
            value = int.from_bytes(raw, "big" if fld.big else "little", signed=fld.signed)
            return fld.values(value) if fld.values else value
        case Kind.GUID:
            return UUID(bytes_le=raw)
    return raw


def _bit_field(fld: Field, data: Buffer, at: int) -> int:
    whole = int.from_bytes(data[at : at + fld.container], "big" if fld.big else "little")
    value = whole >> fld.shift & (1 << fld.width) - 1
    return fld.values(value) if fld.values else value


def _namespace(node: Node) -> SimpleNamespace:
    """The values below a nested format's node, for expressions that read them."""
    return SimpleNamespace(**{c.name: _namespace(c) if c.format else c.value for c in node.children})


def _walk_tail(
    fmt: type[Format], fld: Field, data: Buffer, position: int, stop: int, scope: dict[str, object], node: Node
) -> int:
    """One tail field; returns where it ended."""
    bound, problem = stop, ""
    if fld.length is not None:
        length = evaluate(expression(fld.length), scope)
        if 0 <= length <= stop - position:
            bound = position + length
        else:
            problem = f"{fmt.__name__}.{fld.name}: {length} bytes wanted, {stop - position} left"
    if fld.kind is Kind.ITEMS:
        number = None if fld.count is None else evaluate(expression(fld.count), scope)
        after = _walk_list(fld, data, position, bound, number, node)
        if fld.length is not None and after != bound:
            problem = problem or f"{fld.name}: {bound - after} bytes are too few for one more element"
            after = bound
        node.children[-1].problem = node.children[-1].problem or problem
        return after
    chosen = None
    if fld.kind is Kind.VARIANT:
        assert fld.on is not None and fld.cases is not None
        chosen = choose(fld.cases, evaluate(expression(fld.on), scope), bound - position)
    if chosen is not None:
        child, after = walk(chosen, data, position, bound, name=fld.name)
        if fld.length is None or after == bound:
            child.field = fld
            child.problem = problem
            node.children.append(child)
            return after
    node.children.append(Node(fld.name, bytes(data[position:bound]), position, bound - position, fld, problem=problem))
    return bound


def _walk_list(fld: Field, data: Buffer, position: int, stop: int, number: int | None, node: Node) -> int:
    """Elements of an ``array`` or ``items`` field under a node of their own."""
    group = Node(fld.name, None, position, 0, fld)
    node.children.append(group)
    start, index = position, 0
    element = fld.element
    least = max(element.size if isinstance(element, Field) else element.SIZE if element else 1, 1)
    while number is None or index < number:
        if least > stop - position:
            if number is not None:
                group.problem = f"{fld.name}: {number} elements wanted, {index} are there"
            break
        if isinstance(element, Field):
            group.children.append(Node(f"[{index}]", _scalar(element, data, position), position, element.size, element))
            position += element.size
        else:
            assert isinstance(element, FormatMeta)
            child, after = walk(element, data, position, stop, name=f"[{index}]")
            group.children.append(child)
            if after <= position:
                group.problem = f"{fld.name}: an element of no size"
                break
            position = after
        index += 1
    group.size = position - start
    return position


def _walk_located(fmt: type[Format], fld: Field, data: Buffer, start: int, stop: int, scope: dict[str, object]) -> Node:
    assert fld.offset is not None and fld.length is not None
    at = start + evaluate(expression(fld.offset), scope)
    length = evaluate(expression(fld.length), scope)
    if at < start or length < 0 or at + length > stop:
        problem = f"{fmt.__name__}.{fld.name}: bytes {at - start} to {at - start + length} of {stop - start}"
        return Node(fld.name, b"", start, 0, fld, problem=problem)
    if fld.element is None:
        return Node(fld.name, bytes(data[at : at + length]), at, length, fld)
    group = Node("", None, at, length, fld)
    _walk_list(fld, data, at, at + length, None, group)
    return group.children[0]


def show(value: object, fld: Field | None = None) -> str:
    """A value as a person reads it: names of enumerations, hex where hex is usual, text where there is text."""
    if isinstance(value, OpenEnum):
        return f"{value} ({int(value):#x})" if value.is_known else f"unknown ({int(value):#x})"
    if isinstance(value, OpenFlags):
        return f"{value} ({int(value):#x})"
    if isinstance(value, int):
        unit = f" {fld.unit}" if fld and fld.unit else ""
        unit = f" x{unit}" if unit[1:2].isdigit() else unit  # "2 x 8 bytes"
        return f"{value}{unit}" if value < 4096 else f"{value} ({value:#x}){unit}"
    if isinstance(value, bytes):
        if fld and fld.text:
            return repr(value.decode(fld.text, "replace").split("\0")[0])
        return value.hex(" ", 4) if len(value) <= 48 else f"{value[:40].hex(' ', 4)} ... ({len(value)} bytes)"
    return "" if value is None else str(value)
