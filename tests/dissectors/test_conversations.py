"""What belongs together is found together."""

from __future__ import annotations

from dissectors.conversations import frames, rndis_exchanges, scsi_commands, transactions
from dissectors.testing import GUEST, Script
from vmbus.wire.scsi import SenseKey
from vmbus.wire.vstor import SrbStatus


def test_a_command_comes_with_its_data_its_status_and_its_sense(disk: Script) -> None:
    read, inquiry, unknown = scsi_commands(disk.decode())
    assert (read.name, read.blocks, read.status) == ("READ_10 lba 2048 +8", (2048, 8), SrbStatus.SUCCESS)
    assert [len(item.data) - item.body_at for item in read.data] == [256]
    assert inquiry.sense is None and inquiry.latency_ns == 2000
    assert unknown.status == SrbStatus.ERROR
    assert unknown.sense is not None and unknown.sense.key == SenseKey.ILLEGAL_REQUEST


def test_requests_without_a_completion_come_last(disk: Script) -> None:
    disk.packet(GUEST, 3, bytes(64), transaction=50, wants_completion=True)
    found = list(transactions(disk.decode()))
    assert [one.completion is None for one in found] == [False] * 4 + [True]
    assert found[-1].latency_ns is None


def test_an_rndis_request_comes_with_its_answer(card: Script) -> None:
    (exchange,) = rndis_exchanges(card.decode())
    assert "QUERY " in exchange.request.summary
    assert exchange.answer is not None and "QUERY_COMPLETE" in exchange.answer.summary


def test_frames_come_in_order_with_their_card(card: Script) -> None:
    found = list(frames(card.decode()))
    assert [(frame.card, frame.item.arrow, frame.length) for frame in found] == [
        ("4 net", "->", 60),
        ("4 net", "<-", 60),
    ]
