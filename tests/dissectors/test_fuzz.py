"""Nothing that a record holds makes the decoders raise: real conversations, changed, cut, shuffled and repeated."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dissectors.engine import Decoded, Session
from dissectors.engine.render import record_json, record_line, tree_lines
from dissectors.filters import Filter
from dissectors.rules import Checker
from dissectors.rules.faults import FAULTS
from dissectors.testing import Script
from vmbus.capture.reader import read_records
from vmbus.wire.control_values import MessageType
from vmbus.wire.protocols import ABBREVIATIONS

CAPTURES = Path(__file__).parents[2] / "captures"
FILTER = Filter("opcode == READ_10 || oid == GEN_LINK_SPEED || frame contains 00:01 || problem")


def use(item: Decoded) -> None:
    """Everything that people do with a record."""
    record_line(item, 0)
    list(tree_lines(item.tree))
    record_json(item)
    FILTER(item)
    assert all(0 <= node.offset and node.offset + node.size <= len(item.data) for node in item.tree)


def decode_all(records: list[bytes], session: Session) -> None:
    checker = Checker(session)
    for number, data in enumerate(records):
        item = session.feed_bytes(data, number * 1000)
        use(item)
        checker.feed(item)
    checker.finish()


def corpus() -> list[list[bytes]]:
    """Conversations to start from: one of each fault, and of the real guests the beginnings."""
    found = []
    for build in FAULTS.values():
        script = Script()
        script.connect()
        build(script)
        found.append([data for _, data in script.records[:60]])
    for case in sorted(CAPTURES.glob("*/capture.pcapng")):
        if not case.parent.name.startswith("fault-"):
            session = Session()
            items = [session.feed(record) for record in read_records(case)]
            found.append([bytes(item.data) for item in items if item.kind and len(item.data) < 600][:400:5])
    return found


CORPUS = corpus()


def mutate(chance: random.Random, records: list[bytes]) -> list[bytes]:
    """Change some bytes, mostly in lengths and types; cut, drop, repeat and swap some records."""
    changed: list[bytes] = []
    for data in records:
        piece = bytearray(data)
        roll = chance.random()
        if roll < 0.1:
            continue
        if roll < 0.2:
            changed.append(bytes(piece))
        if roll < 0.3:
            piece = piece[: chance.randrange(len(piece) + 1)]
        for _ in range(chance.choice((0, 0, 1, 2, 8))):
            if piece:
                at = chance.randrange(len(piece))
                piece[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        changed.append(bytes(piece))
    if chance.random() < 0.3:
        chance.shuffle(changed)
    return changed


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, len(CORPUS) - 1), st.integers())
def test_mutated_conversations_never_raise(which: int, seed: int) -> None:
    decode_all(mutate(random.Random(seed), CORPUS[which]), Session())


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.binary(max_size=300), max_size=12))
def test_any_bytes_never_raise(records: list[bytes]) -> None:
    decode_all(records, Session())


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(ABBREVIATIONS)), st.lists(st.binary(max_size=200), min_size=1, max_size=6), st.data())
def test_any_payload_of_any_protocol_never_raises(name: str, payloads: list[bytes], data: st.DataObject) -> None:
    script = Script()
    for number, payload in enumerate(payloads):
        sender = data.draw(st.sampled_from([1, 2]))
        script.packet(sender, 5, payload, transaction=number, wants_completion=True)  # type: ignore[arg-type]
        script.external(sender, 5, payload, transaction=number)  # type: ignore[arg-type]
        script.completion(3 - sender, 5, payload, transaction=number)  # type: ignore[arg-type]
    decode_all([record for _, record in script.records], Session({5: ABBREVIATIONS[name]}))


def test_memory_stays_bounded_when_nothing_is_ever_completed(script: Script) -> None:
    session = Session()
    script.packet(1, 3, b"", transaction=1, wants_completion=True)  # type: ignore[arg-type]
    template = bytearray(script.records[-1][1])
    for number in range(70_000):
        template[40:48] = number.to_bytes(8, "little")
        session.feed_bytes(bytes(template), number)
    assert len(list(session.pending)) <= 1 << 16


@pytest.mark.parametrize("number", range(1, 30))
def test_control_messages_cut_anywhere_never_raise(number: int, script: Script) -> None:
    for size in range(0, 240, 7):
        script.message(1, MessageType(number), bytes(range(size)))  # type: ignore[arg-type]
    decode_all([data for _, data in script.records], Session())
