"""A capture decodes in parts, by one process or several, exactly as it does as a whole."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from dissectors.engine import Decoded
from dissectors.engine.parts import PartReader
from dissectors.engine.passage import Passage
from dissectors.engine.render import record_line, tree_lines
from dissectors.engine.session import Session
from dissectors.engine.source import decode_capture, decode_file
from dissectors.filters import Filter
from dissectors.reading import Reading
from dissectors.testing import GUEST, HOST, Script
from vmbus.capture.store import CaptureStore
from vmbus.capture.walk import Damage
from vmbus.wire import guids

CAPTURES = sorted((Path(__file__).parents[2] / "captures").glob("*/capture.pcapng"))
every_capture = pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.parent.name)
FILTERS = (
    'vstor.cdb.opcode == READ_10 && latency > 50us && channel ~ "scsi"',
    "rndis.message_type == PACKET || inquiry",
    "!(vstor || latency < 100us)",
    "opcode != READ_10",
    "channel.id == 3 && !request",
    "oid || sense.key || message_type == OFFER_CHANNEL",
    "number in {3, 40..90} && protocol != note",
    'summary ~ "READ" && length > 100',
    "information || stream || packet_type == COMPLETION",
)  # fmt: skip


def text(item: Decoded) -> str:
    lines = [record_line(item, 0), *item.problems, *tree_lines(item.tree)]
    return "\n".join([*lines, f"{item.lost} {item.request and item.request.number} {item.response}"])


def in_parts(path: Path, part_bytes: int, show: Callable[[Decoded], str] = text) -> list[str]:
    found: list[str] = []
    for part in Passage(CaptureStore.open(path, windowed=True)).parts(part_bytes):
        reader = PartReader(part)
        found += [show(reader.item(index)) for index in range(len(part))]
    return found


@every_capture
def test_parts_of_any_size_decode_as_the_whole(capture: Path) -> None:
    whole = [text(item) for item in decode_capture(str(capture))]
    for part_bytes in (1, 777, 4096, 1 << 20):
        assert in_parts(capture, part_bytes) == whole


@every_capture
def test_a_filter_over_columns_finds_what_it_finds_record_by_record(capture: Path) -> None:
    for wanted in map(Filter, FILTERS):
        expected = [item.number for item in decode_capture(str(capture)) if wanted(item)]
        reading = Reading(str(capture), wanted=wanted, part_bytes=5000)
        assert [item.number for part in reading.parts() for item in reading.items(part)] == expected


def test_what_the_columns_decide_is_not_decoded(recorded: Path) -> None:
    wanted = Filter('vstor.cdb.opcode == READ_10 && latency > 1us && channel ~ "scsi"')
    for part in Passage(CaptureStore.open(recorded, windowed=True)).parts():
        may, must = wanted.narrow(part)
        assert not must.any()
        completions = (part.columns.kind == 3) & (part.columns.subtype == 11)
        assert set(may.nonzero()[0]) <= set(completions.nonzero()[0]) | set(part.ready)


def test_damage_is_told_and_got_over_in_parts_as_in_the_whole(recorded: Path, tmp_path: Path) -> None:
    sound = recorded.read_bytes()
    chance = random.Random(7)
    for _ in range(15):
        broken = bytearray(sound)
        for _ in range(chance.randrange(1, 40)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        path = tmp_path / "broken.pcapng"
        path.write_bytes(broken[: chance.randrange(len(broken) // 2, len(broken))])
        damage: list[Damage] = []
        whole = [record_line(item, 0) for item in decode_capture(str(path), on_damage=damage.append)]
        told: list[Damage] = []
        parts = Reading(str(path), part_bytes=2000, on_damage=told.append)
        assert [record_line(item, 0) for part in parts.parts() for item in parts.items(part)] == whole
        assert told == damage


def test_a_file_is_read_by_the_index_as_it_is_record_by_record(recorded: Path) -> None:
    store = CaptureStore.open(recorded, windowed=True)
    assert [text(item) for item in decode_file(store, Session())] == [text(i) for i in decode_capture(str(recorded))]


def test_a_channel_that_changes_within_a_part_has_the_life_of_each_record(script: Script, tmp_path: Path) -> None:
    script.packet(GUEST, 5, bytes(16), transaction=1, wants_completion=True)
    for interface in (guids.KEYBOARD, guids.TIMESYNC):
        script.offer(5, interface)
        script.packet(GUEST, 5, bytes(16), transaction=2, wants_completion=True)
        script.packet(GUEST, 5, bytes(16), transaction=2, wants_completion=True)
        script.completion(HOST, 5, bytes(8), transaction=2)
    script.completion(HOST, 5, bytes(8), transaction=1)
    path = script.write(tmp_path / "lives.pcapng")
    whole = [text(item) for item in decode_capture(str(path))]
    assert all(in_parts(path, part_bytes) == whole for part_bytes in (1, 300, 1 << 20))


def test_fields_are_those_that_the_tree_shows(recorded: Path) -> None:
    from dissectors.filters.fields import RECORD_FIELDS, Type, all_names, wire_fields
    from dissectors.filters.getters import Getter

    chance = random.Random(3)
    names = [name for name in all_names() if name not in RECORD_FIELDS and wire_fields(name)]
    getters = [
        Getter(name, fields[0].type)
        for name in chance.sample(names, 300)
        if (fields := wire_fields(name)) and fields[0].type is not Type.GROUP
    ]
    for item in decode_capture(str(recorded)):
        for getter in chance.sample(getters, 20):
            for layer in item.layers:
                if layer.format is None or layer.within:
                    continue
                found: list[object] = []
                collect = getter._collector(layer.format, item.protocol)
                if collect is not None:
                    getter._collect(item, layer, collect, found)
                assert sorted(map(repr, found)) == sorted(map(repr, getter._in_tree(item, layer)))


def test_lines_are_joined_in_order_and_as_one_process_prints_them(recorded: Path, tmp_path: Path) -> None:
    shown: list[bytes] = []
    for jobs in (1, 2, 3):
        reading = Reading(str(recorded), jobs=jobs, part_bytes=20_000)
        with io.TextIOWrapper(io.BytesIO(), encoding="utf-8") as out:
            reading.show(lambda part, file: print(*map(text, reading.items(part)), sep="\n", file=file), out)  # noqa: B023
            out.flush()
            shown.append(out.buffer.getvalue())  # type: ignore[attr-defined]
    assert shown[0] and shown[0] == shown[1] == shown[2]
