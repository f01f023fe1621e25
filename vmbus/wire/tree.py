"""The decode tree of a format: every field with its value and the bytes it came from, for people and for oracles.

Unlike the codec it never raises: a format cut short yields the fields that are there and a node that says what is
missing.  It interprets the declaration field by field, so it also checks the generated codec in the tests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from uuid import UUID

from vmbus.wire.codec import choose
from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.schema import Buffer, Field, Format, FormatMeta, Kind, evaluate, expression


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
    scope: dict[str, int] = {}
    position = container_at = start
    for fld in fmt.FIELDS:
        if fld.is_head and fld.size > stop - position:
            left = stop - position
            problem = f"{fmt.__name__} is cut short: {fld.name} needs {fld.size} bytes, {left} are left"
            node.children.append(Node(fld.name, bytes(data[position:stop]), position, left, fld, problem=problem))
            return stop
        try:
            match fld.kind:
                case Kind.INT:
                    value = _integer(data, position, fld)
                    scope[fld.name] = value
                    node.children.append(Node(fld.name, value, position, fld.size, fld))
                    position += fld.size
                case Kind.BITS:
                    if fld.size:
                        container_at, position = position, position + fld.size
                    whole = int.from_bytes(
                        data[container_at : container_at + fld.container], "big" if fld.big else "little"
                    )
                    value = whole >> fld.shift & (1 << fld.width) - 1
                    value = fld.values(value) if fld.values else value
                    scope[fld.name] = value
                    node.children.append(Node(fld.name, value, container_at, fld.container, fld))
                case Kind.GUID:
                    guid = UUID(bytes_le=bytes(data[position : position + 16]))
                    node.children.append(Node(fld.name, guid, position, 16, fld))
                    position += 16
                case Kind.RAW | Kind.PAD:
                    raw = bytes(data[position : position + fld.size])
                    node.children.append(Node(fld.name, raw, position, fld.size, fld))
                    position += fld.size
                case Kind.NESTED:
                    assert isinstance(fld.element, FormatMeta)
                    child, position = walk(fld.element, data, position, position + fld.size, name=fld.name)
                    child.field = fld
                    node.children.append(child)
                case Kind.ARRAY:
                    position = _walk_list(fld, data, position, position + fld.size, fld.number, node)
                case Kind.ITEMS:
                    number = None if fld.count is None else evaluate(expression(fld.count), scope)
                    position = _walk_list(fld, data, position, stop, number, node)
                case Kind.BLOB:
                    assert fld.length is not None
                    length = evaluate(expression(fld.length), scope)
                    short = length < 0 or length > stop - position
                    after = stop if short else position + length
                    blob = Node(fld.name, bytes(data[position:after]), position, after - position, fld)
                    if short:
                        blob.problem = f"{fmt.__name__}.{fld.name}: {length} bytes wanted, {stop - position} left"
                    node.children.append(blob)
                    position = after
                case Kind.VARIANT:
                    assert fld.on is not None
                    chosen = choose(fld.cases, evaluate(expression(fld.on), scope), stop - position)
                    if chosen is None:
                        node.children.append(Node(fld.name, bytes(data[position:stop]), position, stop - position, fld))
                        position = stop
                    else:
                        child, position = walk(chosen, data, position, stop, name=fld.name)
                        child.field = fld
                        node.children.append(child)
                case Kind.REST:
                    node.children.append(Node(fld.name, bytes(data[position:stop]), position, stop - position, fld))
                    position = stop
                case Kind.LOCATED:
                    node.children.append(_walk_located(fmt, fld, data, start, stop, scope))
        except ArithmeticError as error:
            node.children.append(Node(fld.name, None, position, 0, fld, problem=f"{fmt.__name__}.{fld.name}: {error}"))
            return position
    return position


def _integer(data: Buffer, at: int, fld: Field) -> int:
    value = int.from_bytes(data[at : at + fld.size], "big" if fld.big else "little", signed=fld.signed)
    return fld.values(value) if fld.values else value


def _walk_list(fld: Field, data: Buffer, position: int, stop: int, number: int | None, node: Node) -> int:
    """Elements of an ``array`` or ``items`` field under a node of their own."""
    group = Node(fld.name, None, position, 0, fld)
    node.children.append(group)
    start, index = position, 0
    element = fld.element
    least = max(element.size if isinstance(element, Field) else element.SIZE if element else 1, 1)
    while position < stop if number is None else index < number:
        if least > stop - position:
            if number is not None:
                group.problem = f"{fld.name}: {number} elements wanted, {index} are there"
            break
        if isinstance(element, Field):
            value = _integer(data, position, element)
            group.children.append(Node(f"[{index}]", value, position, element.size, element))
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


def _walk_located(fmt: type[Format], fld: Field, data: Buffer, start: int, stop: int, scope: dict[str, int]) -> Node:
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
        return f"{value}{unit}" if value < 4096 else f"{value} ({value:#x}){unit}"
    if isinstance(value, bytes):
        if fld and fld.text:
            return repr(value.decode(fld.text, "replace").split("\0")[0])
        return value.hex(" ", 4) if len(value) <= 48 else f"{value[:40].hex(' ', 4)} ... ({len(value)} bytes)"
    return "" if value is None else str(value)
