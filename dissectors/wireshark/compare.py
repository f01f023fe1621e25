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
from typing import Any, NamedTuple
from xml.etree import ElementTree

from dissectors.engine.decoded import Decoded
from dissectors.engine.dialect import Foreign
from dissectors.engine.inside import INSIDE
from dissectors.engine.layers import Layer, build_tree
from dissectors.engine.names import field_name, format_name
from dissectors.engine.session import Session
from dissectors.engine.source import decode_capture
from dissectors.wireshark.lua import dissector, probe_dissector
from vmbus.capture import blocks
from vmbus.errors import VmbusError
from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.schema import Field, Format, Kind
from vmbus.wire.tree import Node

_CONTROL = bytes(code for code in range(32) if code not in b"\t\n\r")
_NO_CHARACTERS = {0xFFFE: None, 0xFFFF: None}

LABEL_SIZE = 239
"""Bytes of a label at most."""


class TsharkFailed(VmbusError):
    """tshark is not there or could not read a capture."""


class FieldValue(NamedTuple):
    """One field of a record as our tree has it."""

    name: str
    offset: int
    size: int
    value: object
    text: str = ""
    """The encoding, of bytes that are text."""

    def __str__(self) -> str:
        value = self.value.hex(" ") if isinstance(self.value, bytes) else str(self.value)
        return f"{self.name} at {self.offset}, {self.size} bytes: {value}"


class ShownField(NamedTuple):
    """One field of a record as tshark shows it."""

    name: str
    offset: int
    size: int
    show: str
    raw: str
    """The bytes as hex."""
    label: str

    def __str__(self) -> str:
        return f"{self.name} at {self.offset}, {self.size} bytes: {self.label or self.show or self.raw}"


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
        return format_name(child.format) if child.format is not None else f"vmbus.{child.name}"
    if _is_cut(child, child.field):
        return "vmbus.cut_short"
    name = field_name(owner, child.field.name)
    return f"{name}.format" if child.field.kind is Kind.VARIANT and child.format is not None else name


def _is_cut(node: Node, field: Field) -> bool:
    return bool(node.problem) and field.is_head and node.size < field.size


def _value(node: Node) -> tuple[object, str]:
    value, field = node.value, node.field
    if not isinstance(value, bytes):
        return value, ""
    if field is None:
        return value, "utf-8" if node.name == "text" else ""
    return value, "" if _is_cut(node, field) else field.text


def tshark_fields(capture: str | Path, script: str | None = None) -> Iterator[list[ShownField]]:
    """The fields of each record as tshark with the generated dissector shows them."""
    # What tshark complains of goes to a file: a pipe that nobody empties would stop it.
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile() as complaints:
        path = Path(directory) / "vmbus.lua"
        path.write_text(script or dissector(), "utf-8")
        command = ["tshark", "-X", f"lua_script:{path}", "-r", str(capture), "-T", "pdml"]
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints)
        except OSError as error:
            raise TsharkFailed(f"cannot run tshark: {error.strerror}") from error
        with process:
            assert process.stdout is not None
            try:
                parser: Any = ElementTree.XMLPullParser(["end"])
                for line in process.stdout:
                    # tshark passes on what text fields hold, also what XML does not allow.
                    text = line.translate(None, _CONTROL).decode("utf-8", "replace")
                    parser.feed(text.translate(_NO_CHARACTERS))
                    for _, element in parser.read_events():
                        if element.tag == "packet":
                            yield list(_of_packet(element))
                            element.clear()
            except ElementTree.ParseError as error:
                process.kill()
                raise TsharkFailed(f"tshark's output breaks off: {error}") from error
        if process.returncode:
            complaints.seek(0)
            complaint = complaints.read().decode("utf-8", "replace").strip()
            said = complaint.splitlines() or [f"it ended with status {process.returncode}"]
            raise TsharkFailed(f"tshark: {said[-1].removeprefix('tshark: ')}")


def _of_packet(packet: ElementTree.Element) -> Iterator[ShownField]:
    for proto in packet.iter("proto"):
        if proto.get("name") == "vmbus":
            for element in proto.iter("field"):
                name, get = element.get("name", ""), element.get
                if name.startswith("vmbus."):
                    place, size = int(get("pos", "0")), int(get("size", "0"))
                    yield ShownField(name, place, size, get("show", ""), get("value", ""), get("showname", ""))


class Difference(NamedTuple):
    """A field that is not the same in both."""

    record: int
    ours: FieldValue | None
    theirs: ShownField | None

    def __str__(self) -> str:
        ours, theirs = (f"has {field}" if field is not None else "has no more" for field in (self.ours, self.theirs))
        return f"record {self.record}: our tree {ours}; tshark {theirs}"


_MARKS = frozenset({"vmbus.malformed", "vmbus.snapped"})
"""What tshark says of a record beside its fields."""


def our_marks(item: Decoded) -> set[str]:
    """The same of a record of ours: whether its fields are malformed, and whether the snap length cut it short."""
    malformed = not item.is_partial and bool(item.tree.problems())
    return {*(["vmbus.malformed"] if malformed else []), *(["vmbus.snapped"] if item.is_cut else [])}


def _without_marks(fields: list[ShownField] | None) -> list[ShownField]:
    return [field for field in fields or [] if field.name not in _MARKS]


def differences(capture: str | Path, session: Session | None = None) -> Iterator[Difference]:
    """Every field of a capture that our tree and tshark do not show alike; nothing if all is well.

    Records that are none of VMBus are left to tshark; ``session``, a fresh one, has counted them afterwards.
    """
    script = dissector()
    for item, theirs in zip_longest(decode_capture(str(capture), session=session), tshark_fields(capture, script)):
        number = item.number if item is not None else 0
        ours = our_fields(item) if item is not None and not isinstance(item.dialect, Foreign) else []
        marks = {field.name for field in theirs or [] if field.name in _MARKS}
        if item is not None and marks != our_marks(item):
            yield Difference(
                number, FieldValue(str(our_marks(item)), 0, 0, None), ShownField(str(marks), 0, 0, "", "", "")
            )
        for mine, other in zip_longest(ours, _without_marks(theirs)):
            if not _same(mine, other):
                yield Difference(number, mine, other)
                break


def _same(mine: FieldValue | None, other: ShownField | None) -> bool:
    """Whether both are the same field: name, place, size, value, and what the value is called."""
    if mine is None or other is None or mine[:3] != other[:3]:
        return False
    match mine.value:
        case None:
            return other.show == ""
        case bytes() as raw:
            if raw.hex() != other.raw:
                return False
            text = raw.decode(mine.text, "replace").split("\0")[0] if mine.text else ""
            return not text or not text.isascii() or not text.isprintable() or other.show == text
        case OpenEnum() as value:
            called = str(value) if value.is_known else "Unknown"
            return other.show == str(int(value)) and other.label.endswith(f"{called} ({int(value)})")
        case OpenFlags() as value:
            called = f"{int(value)} {value}"
            return other.show == str(int(value)) and _ends_with(other.label, called)
        case value:
            return other.show == str(value)


def _ends_with(label: str, called: str) -> bool:
    """Whether a label ends with the names of the flags, as far as Wireshark had room for them."""
    return label.endswith(called) or (len(label) >= LABEL_SIZE and called.startswith(label.rpartition(": ")[2]))


PROBE_LINK_TYPE = 148
"""LINKTYPE_USER1: single formats, for :func:`probe_differences` only."""


def probe_differences(probes: list[tuple[type[Format], bytes]], directory: Path) -> Iterator[Difference]:
    """As :func:`differences`, for single formats over any bytes, whether or not a record could hold them."""
    formats = list(dict.fromkeys(fmt for fmt, _ in probes))
    capture = directory / "probe.pcapng"
    pieces = [blocks.section_header(), blocks.interface_description("probe", link_type=PROBE_LINK_TYPE)]
    for number, (fmt, data) in enumerate(probes):
        pieces.append(blocks.enhanced_packet(0, number, formats.index(fmt).to_bytes(2, "little") + data))
    capture.write_bytes(b"".join(pieces))
    shown = tshark_fields(capture, probe_dissector(formats))
    for number, (probe, theirs) in enumerate(zip_longest(probes, shown), 1):
        ours = _probe_fields(*probe) if probe is not None else []
        for mine, other in zip_longest(ours, _without_marks(theirs)):
            if not _same(mine, other):
                yield Difference(number, mine, other)
                break


def _probe_fields(fmt: type[Format], data: bytes) -> list[FieldValue]:
    node = build_tree(b"\0\0" + data, [Layer(fmt, 2, 2 + len(data))], INSIDE).children[0]
    return [FieldValue(format_name(fmt), node.offset, node.size, *_value(node)), *_below(node)]
