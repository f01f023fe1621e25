"""Every declared format is a scapy layer that dissects to the same values and rebuilds to the same bytes."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from scapy.packet import NoPayload, Packet, Padding, Raw, fuzz

from dissectors.layers.scapy_face import layer_of, scapy_name
from vmbus.testing.formats import all_formats, values_of
from vmbus.wire.schema import Format

FORMATS = all_formats()
every_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: f"{fmt.__module__[11:]}.{fmt.__name__}")
few = settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def forget_bytes(packet: Any) -> None:
    """Make a packet build from its fields, all the way down."""
    packet.raw_packet_cache = None
    for value in packet.fields.values():
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, Packet) and hasattr(inner, "format"):
                forget_bytes(inner)


def plain(value: Any) -> Any:
    """A value of ours or of scapy's in one common shape."""
    if isinstance(value, Format):
        return {scapy_name(f.name): plain(getattr(value, f.name)) for f in value.FIELDS if f.is_stored}
    if isinstance(value, Raw):
        return value.load
    if value is None:
        return b""
    if isinstance(value, Packet) and not hasattr(value, "format"):
        return bytes(value)  # an Ethernet frame
    if isinstance(value, Packet):
        return {f.name: plain(value.getfieldval(f.name)) for f in value.fields_desc}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (bytes, UUID)) else int(value)


@every_format
def test_a_layer_says_what_the_codec_says_and_rebuilds_its_bytes(fmt: type[Format]) -> None:
    @few
    @given(values_of(fmt))
    def check(drawn: Format) -> None:
        wire = drawn.build()
        packet = layer_of(fmt)(wire)
        assert isinstance(packet.payload, NoPayload)
        assert plain(packet) == plain(fmt.parse(wire))
        forget_bytes(packet)
        assert bytes(packet) == wire

    check()


@every_format
def test_a_layer_inside_another_leaves_what_follows(fmt: type[Format]) -> None:
    @few
    @given(values_of(fmt))
    def check(drawn: Format) -> None:
        if not fmt.IS_FIXED:
            return
        packet = layer_of(fmt)(drawn.build() + b"\xa5behind", _parent=Raw())
        assert packet.getlayer(Padding) is not None and packet[Padding].load == b"\xa5behind"

    check()


@every_format
def test_a_layer_fuzzes(fmt: type[Format]) -> None:
    for _ in range(3):
        assert isinstance(bytes(fuzz(layer_of(fmt)())), bytes)
