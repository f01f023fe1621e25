"""Holds our decoding and Wireshark's together: every field of every record, both ways, nothing left out.

A field is its name, its place and size in the record, its value, and the name that its enumeration gives the value.
Ours come from the tree, tshark's from ``-T pdml`` with the generated dissector.  The tests run this over every capture
in ``captures/``; ``vmbus wireshark compare FILE`` runs it for anyone.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple
from uuid import UUID
from xml.etree import ElementTree

from dissectors.engine.decoded import Decoded
from dissectors.engine.names import field_name, format_name
from dissectors.engine.source import decode_capture
from dissectors.wireshark.lua import dissector
from vmbus.errors import VmbusError
from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.schema import Field, Format, Kind
from vmbus.wire.tree import Node


class TsharkFailed(VmbusError):
    """tshark is not there or could not read a capture."""


class FieldValue(NamedTuple):
    """One field of a record."""

    name: str
    offset: int
    size: int
    value: str
    """Decimal integers, GUIDs, bytes as hex, text."""
    meaning: str = ""
    """What the enumeration or the flags call the value."""


def our_fields(item: Decoded) -> list[FieldValue]:
    """The fields of a decoded record in the order of its tree."""
    found: list[FieldValue] = []
    for layer in item.tree.children:
        name = format_name(layer.format) if layer.format else f"vmbus.{layer.name}"
        found.append(FieldValue(name, layer.offset, layer.size, *_value(layer)))
        found += _below(layer)
    return found


def _below(node: Node) -> Iterator[FieldValue]:
    owner = node.format
    for child in node.children:
        name = _name(owner, node, child)
        yield FieldValue(name, child.offset, child.size, *_value(child))
        yield from _elements(name, child) if _is_list(child) else _below(child)


def _elements(name: str, group: Node) -> Iterator[FieldValue]:
    for child in group.children:
        element = format_name(child.format) if child.format else f"{name}.item"
        yield FieldValue(element, child.offset, child.size, *_value(child))
        yield from _below(child)


def _is_list(node: Node) -> bool:
    return node.field is not None and node.format is None and bool(node.children) and node.children[0].name == "[0]"


def _name(owner: type[Format] | None, node: Node, child: Node) -> str:
    if owner is None or child.field is None:
        assert child.format is not None
        return format_name(child.format)
    if _is_cut(child, child.field):
        return "vmbus.cut_short"
    name = field_name(owner, child.field.name)
    return f"{name}.format" if child.field.kind is Kind.VARIANT and child.format is not None else name


def _is_cut(node: Node, field: Field) -> bool:
    return bool(node.problem) and field.is_head and node.size < field.size


def _value(node: Node) -> tuple[str, str]:
    value, field = node.value, node.field
    if isinstance(value, (OpenEnum, OpenFlags)):
        known = isinstance(value, OpenFlags) or value.is_known
        return str(int(value)), str(value) if known else "Unknown"
    if isinstance(value, bytes):
        if field is not None and field.text and not _is_cut(node, field):
            return value.decode(field.text, "replace").split("\0")[0], ""
        return (value.decode("utf-8", "replace"), "") if node.name == "text" and field is None else (value.hex(), "")
    return ("" if value is None else str(value)), ""


def tshark_fields(capture: str | Path, script: str | None = None) -> Iterator[list[FieldValue]]:
    """The fields of each record as tshark with the generated dissector shows them."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "vmbus.lua"
        path.write_text(script or dissector(), "utf-8")
        command = ["tshark", "-X", f"lua_script:{path}", "-r", str(capture), "-T", "pdml"]
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except OSError as error:
            raise TsharkFailed(f"cannot run tshark: {error.strerror}") from error
        with process:
            assert process.stdout is not None and process.stderr is not None
            try:
                for _, element in ElementTree.iterparse(process.stdout):  # noqa: S314 - tshark's own output
                    if element.tag == "packet":
                        yield list(_of_packet(element))
                        element.clear()
            except ElementTree.ParseError as error:
                process.kill()
                raise TsharkFailed(f"tshark's output breaks off: {error}") from error
            complaint = process.stderr.read().decode("utf-8", "replace")
        if process.returncode:
            raise TsharkFailed(f"tshark ended with {process.returncode}: {complaint.strip().splitlines()[-1:]}")


def _of_packet(packet: ElementTree.Element) -> Iterator[FieldValue]:
    for proto in packet.iter("proto"):
        if proto.get("name") == "vmbus":
            for element in proto.iter("field"):
                name = element.get("name", "")
                if name.startswith("vmbus.") and not name.startswith("vmbus.malformed"):
                    yield _parsed(name, element)


def _parsed(name: str, element: ElementTree.Element) -> FieldValue:
    shown, label = element.get("show", ""), element.get("showname", "")
    size = int(element.get("size", "0"))
    text = label.partition(": ")[2]
    meaning = ""
    if text.endswith(f"({shown})"):
        meaning = text.removesuffix(f" ({shown})")
    elif text.startswith(f"{shown} "):
        meaning = text.removeprefix(f"{shown} ")
    raw = element.get("value", "")
    value = raw if shown.replace(":", "") == raw else shown
    return FieldValue(name, int(element.get("pos", "0")), size, value, meaning)


class Difference(NamedTuple):
    """A field that is not the same in both."""

    record: int
    ours: FieldValue | None
    theirs: FieldValue | None

    def __str__(self) -> str:
        return f"record {self.record}: ours {self.ours}, tshark's {self.theirs}"


def differences(capture: str | Path) -> Iterator[Difference]:
    """Every field of a capture that our tree and tshark do not show alike; nothing if all is well."""
    script = dissector()
    for item, theirs in zip_longest(decode_capture(str(capture)), tshark_fields(capture, script)):
        number = item.number if item is not None else 0
        ours = our_fields(item) if item is not None else []
        for mine, other in zip_longest(ours, theirs or []):
            if not _same(mine, other):
                yield Difference(number, mine, other)
                break


def _same(mine: FieldValue | None, other: FieldValue | None) -> bool:
    if mine is None or other is None:
        return False
    if mine[:3] != other[:3] or mine.meaning != other.meaning:
        return False
    return mine.value == other.value or _as_guid(mine.value) == other.value


def _as_guid(text: str) -> str:
    try:
        return str(UUID(text)) if len(text) == 36 else text
    except ValueError:
        return text
