"""Damaged captures: every sound record is shown, what is skipped is counted, and nothing raises."""

from __future__ import annotations

import struct
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmbus.capture import blocks, encode
from vmbus.capture.reader import CannotOpen, Damage, NotACapture, Record, read_records
from vmbus.capture.walk import Block, BlockWalker
from vmbus.wire.capture import NoteKind


def read(data: bytes) -> tuple[list[Record], list[Damage]]:
    damage: list[Damage] = []
    return list(read_records(BytesIO(data), on_damage=damage.append)), damage


def essence(record: Record) -> tuple[object, ...]:
    return (record.time_ns, record.header, record.body, record.original_length)


def spans(data: bytes) -> list[tuple[int, int]]:
    """Where the packet blocks of sound data lie."""
    found = [item for item in BlockWalker(BytesIO(data)) if isinstance(item, Block)]
    return [(b.offset, b.offset + len(b.body) + 12) for b in found if b.block_type == blocks.ENHANCED_PACKET]


def test_a_capture_cut_anywhere_shows_every_whole_record(sample: Path) -> None:
    sound = sample.read_bytes()
    whole, _ = read(sound)
    ends = [end for _, end in spans(sound)]
    for cut in range(12, len(sound), 7):
        found, damage = read(sound[:cut]) if cut >= 108 else ([], [])
        assert [essence(record) for record in found] == [
            essence(record) for record, end in zip(whole, ends, strict=True) if end <= cut
        ]
        assert len(damage) <= 1


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.data())
def test_any_changed_byte_costs_no_more_than_its_own_record(sample: Path, data: st.DataObject) -> None:
    sound = sample.read_bytes()
    at = data.draw(st.integers(0, len(sound) - 1))
    value = data.draw(st.integers(0, 255))
    changed = bytearray(sound)
    changed[at] = value
    found, _ = read(bytes(changed))
    # Time stamps and link types come from interface descriptions, so a byte changed there shows on sound records.
    shown = [record.body for record in found] + [record.body[32:] for record in found]
    for record, (start, end) in zip(read(sound)[0], spans(sound), strict=True):
        if not start <= at < end:
            assert record.body in shown


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=3000))
def test_any_bytes_are_read_without_a_traceback(data: bytes) -> None:
    with suppress(NotACapture):
        read(data)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 5, 6, 0xBAD]), st.binary(max_size=60)), max_size=8))
def test_blocks_of_any_contents_are_read_without_a_traceback(made: list[tuple[int, bytes]]) -> None:
    stream = blocks.section_header() + b"".join(
        blocks.block(kind, body + bytes(-len(body) & 3)) for kind, body in made
    )  # fmt: skip
    read(stream)


def notes(count: int) -> list[bytes]:
    return [encode.note(number + 1, NoteKind.TEXT, f"note {number}") for number in range(count)]


def stream_of(*made: bytes) -> bytes:
    return b"".join((blocks.section_header(), blocks.interface_description("vmbus"), *made))


def texts(found: list[Record]) -> list[str]:
    return [record.body.decode() for record in found]


def test_after_a_wrong_length_the_next_block_is_found_and_the_skipped_bytes_counted() -> None:
    one, two, three = notes(3)
    broken = one[:4] + b"\xff" * 4 + one[8:-4] + b"\xff" * 4
    found, damage = read(stream_of(broken, two, three))
    assert texts(found) == ["note 1", "note 2"]
    assert [(d.skipped, str(d).endswith(f"{len(one)} bytes skipped")) for d in damage] == [(len(one), True)]


def test_a_block_whose_first_length_alone_is_wrong_is_still_read() -> None:
    one, two = notes(2)
    found, damage = read(stream_of(one[:4] + struct.pack("<I", 0x01010101) + one[8:], two))
    assert (texts(found), damage) == (["note 0", "note 1"], [])
    assert found[0].problem == "the first length of the block is wrong"


def test_a_wrong_second_length_is_only_remarked_on() -> None:
    one, two = notes(2)
    found, damage = read(stream_of(one[:-4] + b"\xff\xff\xff\xff", two))
    assert texts(found) == ["note 0", "note 1"]
    assert (found[0].problem, damage) == ("the second length of the block is wrong", [])


def test_a_long_stretch_of_rubbish_is_skipped() -> None:
    one, two = notes(2)
    rubbish = b"\x06\x00\x00\x00" * 100_000 + b"xyz"
    found, damage = read(stream_of(one, rubbish, two))
    assert (texts(found), damage[0].skipped) == (["note 0", "note 1"], len(rubbish))


def test_unknown_blocks_are_passed_over() -> None:
    one, two = notes(2)
    found, damage = read(stream_of(one, blocks.block(0x8000_1234, bytes(16)), blocks.block(0x1234, b""), two))
    assert texts(found) == ["note 0", "note 1"]
    assert [(d.skipped, d.text) for d in damage] == [(12, "unknown block type 0x1234")]


def test_records_of_another_link_type_version_or_kind_say_so() -> None:
    ethernet = blocks.interface_description("eth0", link_type=1)
    frame = blocks.enhanced_packet(1, 7, bytes(60))
    future = blocks.enhanced_packet(0, 8, b"\x02" + bytes(40))
    strange = blocks.enhanced_packet(0, 9, b"\x01\x63\x20" + bytes(29) + b"what is this")
    short = blocks.enhanced_packet(0, 10, b"\x01\x03\x20\x00")
    undescribed = blocks.enhanced_packet(9, 11, encode.note(0, NoteKind.TEXT, "who")[28:-16])
    found, damage = read(stream_of(ethernet, frame, future, strange, short, undescribed))
    assert damage == []
    assert found[3].header is None and "16 bytes" in found[3].problem
    assert [record.problem for record in found if record is not found[3]] == [
        "link type 1 is not that of VMBus records (147)",
        "record version 2 is not known here, only 1",
        "unknown kind of record, 99",
        "interface 9 is not described",
    ]
    assert found[2].body == b"what is this"


def test_a_sound_record_between_damaged_ones_is_shown() -> None:
    sound = encode.note(1, NoteKind.TEXT, "sound")
    damaged = bytearray(sound)
    damaged[4], damaged[-4] = 0x77, 0x33
    start = blocks.section_header() + blocks.interface_description("vmbus")
    found, damage = read(start + (bytes(damaged) + sound) * 20 + bytes(damaged))
    assert [record.body for record in found] == [b"sound"] * 20
    assert [item.skipped for item in damage] == [len(sound)] * 21


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xd4\xc3\xb2\xa1" + bytes(20), "the capture is a pcap file, not a pcapng capture"),
        (b"\x1f\x8b\x08\x00" + bytes(20), "the capture is a gzip file, not a pcapng capture"),
        (b"hello world, nothing here", "the capture is not a pcapng capture: there is no block in its 25 bytes"),
        (b"", "the capture is not a pcapng capture: it is empty"),
        (b"\n", "the capture is not a pcapng capture: there is no block in its 1 byte"),
    ],
)
def test_what_is_no_capture_is_one_clear_line(data: bytes, message: str) -> None:
    with pytest.raises(NotACapture) as caught:
        read(data)
    assert str(caught.value) == message


def test_a_file_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(CannotOpen, match=r"cannot open .*: No such file or directory"):
        list(read_records(tmp_path / "none.pcapng"))
