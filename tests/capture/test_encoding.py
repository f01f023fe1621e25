"""The quickly built blocks say the same as the declared formats and as the general block builder."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbus import native
from vmbus.capture import blocks, encode
from vmbus.capture.reader import Record, read_records
from vmbus.ring import IncomingRing, OutgoingRing, RingMemory
from vmbus.wire.capture import (
    HEADER_SIZE,
    RECORD_FORMATS,
    Direction,
    ExternalRecord,
    MessageRecord,
    NoteKind,
    NoteRecord,
    PacketRecord,
    RegisterRecord,
    SignalRecord,
)
from vmbus.wire.ring import PacketDescriptor, PacketType

EXTENSION = native.load("vmbus.capture._records")
ENCODERS = [encode, *([EXTENSION] if EXTENSION else [])]

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)


def the_record(block: bytes) -> Record:
    interface = blocks.interface_description("vmbus")
    (record,) = read_records(BytesIO(blocks.section_header() + interface + block))
    assert not record.problem
    return record


def test_every_kind_has_a_header_of_32_bytes() -> None:
    assert {form.SIZE for form in RECORD_FORMATS.values()} == {HEADER_SIZE} == {32}


@given(st.binary(max_size=240), U32, U32, U32)
def test_a_message_is_what_its_format_says(payload: bytes, vp: int, connection_id: int, message_type: int) -> None:
    block = encode.message(5, Direction.GUEST_TO_HOST, vp, 2, connection_id, message_type, payload, flags=1)
    record = the_record(block)
    header = MessageRecord(
        kind=1, direction=1, flags=1, vp=vp, sint=2, connection_id=connection_id, message_type=message_type
    )  # fmt: skip
    assert (record.header, record.body, record.time_ns) == (header, payload, 5)
    assert block == blocks.enhanced_packet(0, 5, header.build() + payload, direction=1)


@given(st.sampled_from(ENCODERS), st.binary(max_size=64), U64, st.integers(0, 8))
def test_a_packet_is_its_descriptor_extension_and_padded_payload(
    encoder: ModuleType, payload: bytes, transaction: int, words: int
) -> None:
    extension = bytes(range(8)) * words
    block = encoder.packets(2**63 - 1, 2, 0, [(6, 1, transaction, extension, payload)], 4088, 8, 16, 8192)
    record = the_record(block)
    assert record.header == PacketRecord(
        kind=3, direction=2, ring_size=8192, offset=4088, read_index=8, write_index=16
    )  # fmt: skip
    descriptor = PacketDescriptor.parse(record.body)
    assert (descriptor.packet_type, descriptor.transaction_id) == (PacketType.IN_BAND, transaction)
    assert descriptor.length8 * 8 == len(record.body)
    assert record.body[descriptor.data_offset8 * 8 :] == payload.ljust(-len(payload) % 8 + len(payload), b"\0")
    assert record.body[16 : 16 + len(extension)] == extension
    assert record.time_ns == 2**63 - 1


@pytest.mark.parametrize("encoder", ENCODERS)
def test_packets_of_a_batch_follow_each_other_around_the_end_of_the_ring(encoder: ModuleType) -> None:
    batch = [(6, 0, n, b"", b"12345678") for n in range(3)]
    stream = blocks.section_header() + blocks.interface_description("vmbus")
    stream += encoder.packets(1, 1, 0, batch, 4096 - 32, 0, 0, 4096)
    offsets = [
        record.header.offset for record in read_records(BytesIO(stream)) if isinstance(record.header, PacketRecord)
    ]
    assert offsets == [4064, 0, 32]


@given(st.sampled_from(ENCODERS), st.lists(st.binary(max_size=40), max_size=4), U64, st.integers(0, 1000))
def test_external_data_keeps_its_whole_length(
    encoder: ModuleType, data: list[bytes], transaction: int, more: int
) -> None:
    length = sum(map(len, data))
    record = the_record(encoder.external(1, 1, 0, transaction, 10 + length + more, 10, data))
    expected = ExternalRecord(
        kind=4, direction=1, transaction_id=transaction, total_length=10 + length + more, data_offset=10
    )  # fmt: skip
    assert (record.header, record.body, record.missing) == (expected, b"".join(data), more)


def test_signals_registers_and_notes_are_what_their_formats_say() -> None:
    assert the_record(encode.signal(1, 2, 0, 17, 7)).header == SignalRecord(
        kind=2, direction=2, connection_id=17, flag=7
    )  # fmt: skip
    register = the_record(encode.register(1, 3, 0x40000083, 2**64 - 1))
    assert register.header == RegisterRecord(kind=5, direction=1, vp=3, number=0x40000083, value=2**64 - 1)
    note = the_record(encode.note(1, NoteKind.KERNEL_LOG, "hv_vmbus: registered \udc80", lost=3))
    assert note.header == NoteRecord(kind=6, note_kind=NoteKind.KERNEL_LOG)
    assert (note.body, note.dropped) == (b"hv_vmbus: registered \\udc80", 3)


@pytest.mark.parametrize("pure", [True, False])
def test_packets_as_either_ring_hands_them_over_make_the_same_record(pure: bool) -> None:
    ring = RingMemory.private(4096)
    outgoing, incoming = OutgoingRing(ring, pure=pure), IncomingRing(ring, pure=pure)
    sent = [(6, 1, 7, b"", b"12345"), (9, 1, 8, bytes(4) + b"\1" + bytes(11), b"payload!")]
    outgoing.write_batch(sent)
    outgoing.commit()
    as_sent = encode.packets(1, 1, 0, sent, 0, 0, 0, 4096)
    assert encode.packets(1, 1, 0, incoming.read_batch(), 0, 0, 0, 4096) == as_sent


@pytest.mark.skipif(EXTENSION is None, reason="the extension is not built, or not wanted")
@given(
    st.integers(0, 2**63), st.lists(st.tuples(st.integers(0, 2**16 - 1), U32, U64, st.binary(max_size=20)), max_size=20)
)
def test_the_extension_makes_the_same_bytes(time_ns: int, made: list[tuple[int, int, int, bytes]]) -> None:
    assert EXTENSION is not None
    batch = [
        (kind, flags & 1, number, memoryview(data * 2)[:16], bytearray(data)) for kind, flags, number, data in made
    ]
    arguments = (time_ns, 2, 7, batch, 8, 16, 24, 4096)
    assert EXTENSION.packets(*arguments) == encode.packets(*arguments)
    data = [memoryview(one[3]) for one in made]
    assert EXTENSION.external(time_ns, 1, 3, 5, 100, 7, data) == encode.external(time_ns, 1, 3, 5, 100, 7, data)
    assert EXTENSION.signal(time_ns, 1, 3, 5, 100) == encode.signal(time_ns, 1, 3, 5, 100)


@pytest.mark.skipif(EXTENSION is None, reason="the extension is not built, or not wanted")
@pytest.mark.parametrize(
    "wrong",
    [
        lambda m: m.packets(1, 1, 1, [(6, 0, 0, b"")], 0, 0, 0, 0),
        lambda m: m.packets(1, 1, 1, [(6, 0, 0, b"", 5)], 0, 0, 0, 0),
        lambda m: m.packets(1, 1, 1, [(6, 0, "x", b"", b"")], 0, 0, 0, 0),
        lambda m: m.packets(1, 1, 1, [object()] * 20, 0, 0, 0, 0),
        lambda m: m.packets(1, 1, 1, [(6, 0, 0, b"", bytes(1 << 20))], 0, 0, 0, 0),
        lambda m: m.packets(1, 1, 1, [(6, 0, 0, b"", b"")] * 5000, 0, 0, 0, 0),
        lambda m: m.packets(1, 1),
        lambda m: m.packets(1, 1, 1, 5, 0, 0, 0, 0),
        lambda m: m.external(1, 1, 1, 1, 1, 1, [b"x", 5]),
        lambda m: m.external(1, 1, 1, 1, 1, 1, 5),
        lambda m: m.external(None, 1, 1, 1, 1, 1, []),
        lambda m: m.signal(1),
        lambda m: m.signal("x", 1, 1, 1, 1),
    ],
)
def test_the_extension_refuses_what_it_cannot_take(wrong: Callable[[ModuleType | None], object]) -> None:
    with pytest.raises((TypeError, ValueError, AttributeError)):
        wrong(EXTENSION)
