"""A small conversation to record, and the bytes of a capture of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from vmbus.capture.recorder import Recorder, RecordingPlan
from vmbus.ring.packet import GPA_DIRECT, IN_BAND, RingPacket
from vmbus.tap import Direction, NoteKind, Tap
from vmbus.wire.control import (
    CloseChannel,
    GpadlCreated,
    GpadlHeader,
    InitiateContact,
    MessageHeader,
    OpenChannel,
    OpenResult,
    VersionResponse,
)
from vmbus.wire.control_values import MessageType, Version
from vmbus.wire.offer import OfferChannel
from vmbus.wire.ring import GpaRange
from vmbus.wire.schema import Format

SCSI = UUID("ba6163d9-04a1-4d29-b605-72e2ffb1dc7f")
INSTANCE = UUID("11111111-2222-3333-4444-555555555555")
TO_HOST, TO_GUEST = Direction.GUEST_TO_HOST, Direction.HOST_TO_GUEST


def control(kind: MessageType, body: Format) -> bytes:
    return MessageHeader(message_type=kind).build() + body.build()


@pytest.fixture
def control_message() -> Callable[[MessageType, Format], bytes]:
    return control


def say_hello(tap: Tap) -> None:
    contact = InitiateContact(version=Version.V4_0)
    tap.message(TO_HOST, 0, 0, 1, 1, control(MessageType.INITIATE_CONTACT, contact))
    answer = VersionResponse(version_supported=1, version_or_connection_id=1)
    tap.message(TO_GUEST, 0, 2, 0, 1, control(MessageType.VERSION_RESPONSE, answer))


def open_channel(tap: Tap, channel_id: int = 7, subchannel_index: int = 0) -> None:
    offer = OfferChannel(
        interface_id=SCSI,
        instance_id=INSTANCE,
        channel_id=channel_id,
        connection_id=channel_id,
        subchannel_index=subchannel_index,
    )
    tap.message(TO_GUEST, 0, 2, 0, 1, control(MessageType.OFFER_CHANNEL, offer))
    gpadl = GpadlHeader(channel_id=channel_id, gpadl_id=9, range_bytes=24, range_count=1, words=(8192, 4, 5))
    tap.message(TO_HOST, 0, 0, 1, 1, control(MessageType.GPADL_HEADER, gpadl))
    created = GpadlCreated(channel_id=channel_id, gpadl_id=9, status=0)
    tap.message(TO_GUEST, 0, 2, 0, 1, control(MessageType.GPADL_CREATED, created))
    opening = OpenChannel(channel_id=channel_id, ring_gpadl_id=9, downstream_page_offset=1)
    tap.message(TO_HOST, 0, 0, 1, 1, control(MessageType.OPEN_CHANNEL, opening))
    result = OpenResult(channel_id=channel_id, open_id=0, status=0)
    tap.message(TO_GUEST, 0, 2, 0, 1, control(MessageType.OPEN_CHANNEL_RESULT, result))


def exchange(tap: Tap, channel_id: int = 7, count: int = 4) -> None:
    for number in range(count):
        extension = bytes(4) + b"\1\0\0\0" + GpaRange(byte_count=600, byte_offset=0, pfns=(8,)).build()
        packet = RingPacket(GPA_DIRECT, 1, 1000 + number, extension, b"request!" * 4, 0)
        tap.packets(channel_id, TO_HOST, [packet], 64 * number, 64 * number, 64 * number + 64, 4096)
        tap.external(channel_id, TO_HOST, 1000 + number, 600, [b"D" * 200, b"E" * 56])
        answer = (11, 0, 1000 + number, b"", b"done")
        tap.packets(channel_id, TO_GUEST, [answer, answer], 0, 0, 64, 4096)
        tap.signal(TO_GUEST, channel_id, 0, channel_id)


def close_channel(tap: Tap, channel_id: int = 7) -> None:
    tap.message(TO_HOST, 0, 0, 1, 1, control(MessageType.CLOSE_CHANNEL, CloseChannel(channel_id=channel_id)))


def talk(tap: Tap) -> None:
    """What the sample capture holds: every kind of record."""
    tap.register(0, 0x40000083, 0x1001)
    say_hello(tap)
    open_channel(tap)
    exchange(tap)
    tap.note(NoteKind.CONSOLE, "Freeing unused kernel memory")


@pytest.fixture
def conversation() -> dict[str, Callable[..., None]]:
    return {"hello": say_hello, "open": open_channel, "exchange": exchange, "close": close_channel, "talk": talk}


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture of the conversation."""
    path = tmp_path_factory.mktemp("capture") / "sample.pcapng"
    with Recorder(RecordingPlan(file=str(path))) as recorder:
        talk(recorder.tap)
    return path


@pytest.fixture
def in_band() -> Callable[[int], RingPacket]:
    return lambda transaction_id: RingPacket(IN_BAND, 1, transaction_id, b"", b"12345678", 0)
