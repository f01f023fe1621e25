"""Decoded records as text, as JSON, and as hex: what ``vmbus read`` prints and the goldens in ``captures/`` hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from dissectors.engine.decoded import Decoded
from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.guids import CLIENTS, INSTANCES, INTERFACES, vsock_port
from vmbus.wire.schema import NIL_GUID, Buffer
from vmbus.wire.tree import Node, show

_DIRECTIONS = {"->": "guest to host", "<-": "host to guest"}


def record_line(item: Decoded, start_ns: int) -> str:
    """One line: number, seconds since ``start_ns``, direction, channel, protocol, summary, and the latency."""
    seconds = (item.time_ns - start_ns) / 1e9
    line = (
        f"{item.number:6} {seconds:13.6f} {item.arrow} {item.channel_name or '-':12} {item.protocol:8} {item.summary}"
    )
    if item.is_snapshot:
        line += "  [from before]"
    latency = item.latency_ns
    if latency is not None:
        line += f"  [{latency / 1000:.1f} us]"
    return line


def tree_lines(node: Node, depth: int = 1) -> Iterator[str]:
    """The tree below a record's root, one line a field, indented; a problem follows its field."""
    for child in node.children:
        value = show(child.value, child.field) + guid_name(child.value, child.name)
        yield f"{'    ' * depth}{child.name}{f': {value}' if value else ''}"
        if child.problem:
            yield f"{'    ' * depth}! {child.problem}"
        yield from tree_lines(child, depth + 1)


def guid_name(value: object, field: str = "") -> str:
    """What a GUID stands for, in brackets, and which sources call it something else; empty if nobody named it."""
    if not isinstance(value, UUID) or value == NIL_GUID:
        return ""
    known = INTERFACES.get(value)
    if known is not None:
        return f" ({known.title}; {known.conflict})" if known.conflict else f" ({known.title})"
    port = vsock_port(value) if field in ("interface_id", "service_id") else None
    name = INSTANCES.get(value) or CLIENTS.get(value) or (f"AF_VSOCK port {port}" if port is not None else "")
    return f" ({name})" if name else ""


def hex_lines(data: Buffer) -> Iterator[str]:
    """Offset, sixteen bytes, and what of them is ASCII."""
    raw = bytes(data)
    for at in range(0, len(raw), 16):
        piece = raw[at : at + 16]
        shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in piece)
        yield f"    {at:04x}  {piece[:8].hex(' '):23}  {piece[8:].hex(' '):23}  {shown}"


def record_json(item: Decoded) -> dict[str, Any]:
    """A record as one JSON object, with every field of every layer."""
    latency = item.latency_ns
    return {
        "number": item.number,
        "time_ns": item.time_ns,
        "kind": item.kind_name,
        "direction": _DIRECTIONS.get(item.arrow),
        "channel": item.channel_id or None,
        "channel_name": item.channel_name or None,
        "protocol": item.protocol,
        "summary": item.summary,
        "transaction": item.transaction_id if item.packet_type or item.request else None,
        "request": item.request.number if item.request is not None else None,
        "latency_us": None if latency is None else latency / 1000,
        "problems": item.problems,
        "layers": [{child.name: node_json(child)} for child in item.tree.children],
    }


def node_json(node: Node) -> Any:
    """A node as JSON: fields by name, lists as lists, enumerations as name and number, bytes as hex."""
    if node.children and node.children[0].name == "[0]":
        return [node_json(child) for child in node.children]
    if node.children:
        fields = {child.name: node_json(child) for child in node.children}
        return fields if node.value is None else {"bytes": _plain(node), **fields}
    if node.value is None:
        return [] if node.format is None else {}
    return _plain(node)


def _plain(node: Node) -> Any:
    value = node.value
    match value:
        case OpenEnum() | OpenFlags():
            return {"value": int(value), "name": str(value)}
        case int():
            return value
        case UUID():
            return str(value)
        case bytes() | bytearray() | memoryview():
            raw = bytes(value)
            if node.field is not None and node.field.text:
                return raw.decode(node.field.text, "replace").split("\0")[0]
            return raw.hex()
    return str(value)
