"""What the names in a filter mean: a few about the record as a whole, and every field of every declared format.

A field's full name is ``vmbus.MODULE.FORMAT.FIELD``; any parts may be left out as long as the order stays, and fields
on the way may be named too: ``vstor.cdb.opcode``, ``scsi.opcode`` and ``opcode`` all find the code of a command.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

from dissectors.engine.decoded import Decoded
from dissectors.engine.formats import known_formats
from dissectors.engine.names import field_name, module_name, snake
from dissectors.engine.span import Span
from dissectors.filters import narrow
from vmbus.wire.protocols import ABBREVIATIONS
from vmbus.wire.schema import Field, Format, Kind


class Type(Enum):
    """What a name's values are."""

    NUMBER = "a number"
    DURATION = "a duration"
    TEXT = "text"
    BYTES = "bytes"
    GUID = "a GUID"
    GROUP = "a group of fields"


@dataclass(frozen=True)
class RecordField:
    """Something about a record as a whole."""

    name: str
    type: Type
    read: Callable[[Decoded], Any]
    doc: str
    column: Callable[[Span], narrow.Column] | None = None
    """The same for many records at once, where the columns of an index have it."""


def _channel(item: Decoded) -> str:
    return item.channel_name or "0 control"


def _relative(item: Decoded) -> str | None:
    return {"->": "to_host", "<-": "to_guest"}.get(item.arrow)


RECORD_FIELDS: dict[str, RecordField] = {
    field.name: field
    for field in (
        RecordField("number", Type.NUMBER, lambda item: item.number, "place in the capture, from 1", narrow.numbers),
        RecordField("kind", Type.TEXT, lambda item: item.kind_name, "message, packet, external ...", narrow.kinds),
        RecordField("direction", Type.TEXT, _relative, "to_host or to_guest", narrow.directions),
        RecordField("channel", Type.TEXT, _channel, "id and name: 3 scsi", narrow.channel_names),
        RecordField(
            "channel.id", Type.NUMBER, lambda item: item.channel_id, "0 for the control plane", narrow.channel_ids
        ),
        RecordField(
            "protocol", Type.TEXT, lambda item: item.protocol, "control, vstor, nvsp, kvp ...", narrow.protocols
        ),
        RecordField("summary", Type.TEXT, lambda item: item.summary, "the line that vmbus read shows"),
        RecordField(
            "transaction", Type.NUMBER, lambda item: item.transaction_id, "transaction id of a packet",
            narrow.transactions,
        ),
        RecordField(
            "latency", Type.DURATION, lambda item: item.latency_ns, "from a request to its completion",
            narrow.latencies,
        ),
        RecordField("length", Type.NUMBER, lambda item: len(item.data) - item.body_at, "recorded bytes"),
        RecordField("volume", Type.NUMBER, lambda item: item.volume, "bytes that crossed, recorded or not"),
        RecordField(
            "request", Type.NUMBER, lambda item: item.request.number if item.request else None,
            "number of the request", narrow.requests,
        ),
        RecordField(
            "response", Type.NUMBER, lambda item: item.response.number if item.response else None,
            "number of the completion, once it has been read", narrow.responses,
        ),
        RecordField("problem", Type.TEXT, lambda item: "\n".join(item.problems) or None, "what is wrong with it"),
    )
}  # fmt: skip
"""By name."""


@dataclass(frozen=True)
class WireField:
    """A field of a format."""

    format: type[Format]
    field: Field

    @property
    def name(self) -> str:
        return field_name(self.format, self.field.name)

    @property
    def type(self) -> Type:
        match self.field.kind:
            case Kind.INT | Kind.BITS:
                return Type.NUMBER
            case Kind.GUID:
                return Type.GUID
            case Kind.NESTED | Kind.VARIANT:
                return Type.GROUP
            case Kind.ARRAY | Kind.ITEMS:
                element = self.field.element
                return Type.GROUP if not isinstance(element, Field) else WireField(self.format, element).type
        return Type.TEXT if self.field.text else Type.BYTES


@cache
def _by_field() -> dict[str, tuple[WireField, ...]]:
    found: dict[str, list[WireField]] = {}
    for fmt in known_formats():
        for field in fmt.FIELDS:
            found.setdefault(field.name, []).append(WireField(fmt, field))
    return {name: tuple(fields) for name, fields in found.items()}


@cache
def protocol_names() -> frozenset[str]:
    """Names that a filter may use alone: protocols and formats, such as ``vstor``, ``scsi``, ``rndis``, ``inquiry``."""
    named = {module_name(fmt) for fmt in known_formats()} | {snake(fmt.__name__) for fmt in known_formats()}
    return frozenset(named | set(ABBREVIATIONS) | {"vmbus"})


@cache
def _way_names() -> frozenset[str]:
    """Names that may stand before the last part of a dotted name."""
    return protocol_names() | frozenset(_by_field())


def wire_fields(name: str) -> tuple[WireField, ...]:
    """The fields that a dotted name can mean, by its last part; empty if it means none."""
    *way, last = name.split(".")
    if any(part not in _way_names() for part in way):
        return ()
    candidates = _by_field().get(last, ())
    close = tuple(found for found in candidates if _fits(found, way))
    return close or candidates


def _fits(found: WireField, way: list[str]) -> bool:
    """Whether the parts before the last one name the field's own module or format."""
    own = ["vmbus", module_name(found.format), snake(found.format.__name__)]
    position = 0
    for part in way:
        if part not in own[position:]:
            return False
        position = own.index(part, position) + 1
    return True


@cache
def all_names() -> tuple[str, ...]:
    """Every name that a filter can use, in full."""
    names = {field_name(fmt, field.name).removeprefix("vmbus.") for fmt in known_formats() for field in fmt.FIELDS}
    return tuple(sorted(names | set(RECORD_FIELDS) | protocol_names()))


def completions(prefix: str) -> list[str]:
    """Names that go on from what was typed: full names, and names that have it as a later part."""
    starts = [name for name in all_names() if name.startswith(prefix)]
    inside = [name for name in all_names() if f".{prefix}" in name]
    return starts + inside


def suggestion(name: str, names: Iterable[str]) -> str:
    """``; did you mean ...?`` for a name that is nearly one of ``names``."""
    close = difflib.get_close_matches(name, list(names), 1, 0.6)
    return f"; did you mean {close[0]}?" if close else ""


def name_suggestion(name: str) -> str:
    """As :func:`suggestion`, for a name of a field: the whole of it, or its last part."""
    way, _, last = name.rpartition(".")
    near = suggestion(last, _by_field())
    return suggestion(name, all_names()) or (near.replace("mean ", f"mean {way}.") if near and way else near)
