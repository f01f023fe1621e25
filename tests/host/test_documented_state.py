"""The state and the journal as docs/state-format.md describes them, read here with nothing of our own code."""

from __future__ import annotations

import json
import struct
import zlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vmbus.host.journal_reader import read_journal
from vmbus.testing.servicing import Restarts

STATES = Path(__file__).parent / "states"


class Journal:
    """What a journal says: packets owed and loans outstanding, by channel; the newest entries count here too."""

    def __init__(self, data: bytes) -> None:
        magic, version, active, active_sum = struct.unpack_from("<4sIII", data)
        assert (magic, version) == (b"VMBJ", 3) and active in (0, 1)
        assert active_sum == zlib.crc32(data[8:12])
        used, checksum = struct.unpack_from("<II", data, 16 + 8 * active)
        start = 4096 + active * (len(data) - 4096) // 2
        self.half = data[start : start + used]
        assert zlib.crc32(self.half) == checksum
        self.owed: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
        self.lent: dict[int, dict[int, bytes]] = defaultdict(dict)
        self.totals: dict[tuple[int, int], int] = {}
        at = 0
        while at < used:
            length, kind, _, channel, count = struct.unpack_from("<IHHII", self.half, at)
            assert length % 8 == 0
            {1: self._taken, 2: self._sent, 3: self._closed}[kind](channel, count, self.half[at + 16 : at + length])
            at += length
        assert at == used

    def _taken(self, channel: int, count: int, body: bytes) -> None:
        _, _, total, completions, _ = struct.unpack_from("<IIQII", body)
        self.totals[channel, 1] = total
        for transaction in struct.unpack_from(f"<{completions}Q", body, 24):
            self.lent[channel].pop(transaction, None)
        at = 24 + 8 * completions
        for _ in range(count):
            _, _, extension, payload, _, transaction = struct.unpack_from("<HHIIIQ", body, at)
            at += 24
            self.owed[channel].append((transaction, body[at + extension : at + extension + payload]))
            at += extension + payload

    def _sent(self, channel: int, count: int, body: bytes) -> None:
        _, _, total, loans, _ = struct.unpack_from("<IIQII", body)
        self.totals[channel, 2] = total
        for transaction in struct.unpack_from(f"<{count}Q", body, 24):
            index = next((i for i, (one, _) in enumerate(self.owed[channel]) if one == transaction), None)
            if index is not None:
                del self.owed[channel][index]
        at = 24 + 8 * count
        for _ in range(loans):
            transaction, size, _ = struct.unpack_from("<QII", body, at)
            self.lent[channel][transaction] = body[at + 16 : at + 16 + size]
            at += 16 + size

    def _closed(self, channel: int, count: int, body: bytes) -> None:
        self.owed.pop(channel, None)
        self.lent.pop(channel, None)


def journal_of(bus: Restarts) -> Path:
    return bus.state.with_name(bus.state.name + ".journal")


def test_a_journal_says_what_it_is_documented_to_say(restarts: Callable[..., Restarts]) -> None:
    bus = restarts()
    disk, card = bus.disk(), bus.card()
    for block in range(40):
        disk.write(block, b"x" * 512)
    card.ping("10.7.0.1")
    bus.end(kill=True)
    ours = read_journal(journal_of(bus), lambda channel: (1 << 31, 1 << 31))
    told = Journal(journal_of(bus).read_bytes())
    assert ours.keys() == {channel for channel, _ in told.totals} and len(ours) >= 2
    for channel, debt in ours.items():
        assert [(one.transaction_id, one.payload) for one in debt.packets()] == told.owed[channel]
        assert debt.lent == told.lent[channel]
        assert (debt.taken_total, debt.sent_total) == (
            told.totals.get((channel, 1), 0),
            told.totals.get((channel, 2), 0),
        )


def test_a_kept_journal_holds_the_request_that_was_owed() -> None:
    kept = json.loads((STATES / "version-3.json").read_text())
    head, half_size = bytes.fromhex(kept["journal"]["head"]), kept["journal"]["half_size"]
    data = bytearray(head.ljust(4096 + 2 * half_size, b"\0"))
    entries = bytes.fromhex(kept["journal"]["active_half"])
    start = 4096 + head[8] * half_size
    data[start : start + len(entries)] = entries
    owed = Journal(bytes(data)).owed[kept["owed"]["channel_id"]]
    assert [transaction for transaction, _ in owed] == [kept["owed"]["transaction_id"]]


def test_a_document_has_the_fields_that_are_documented(restarts: Callable[..., Restarts]) -> None:
    bus = restarts()
    bus.disk()
    bus.card()
    bus.end(kill=False)
    document: dict[str, Any] = json.loads(bus.state.read_text())
    assert document["format"] == "vmbus host state" and document["version"] == 3 and document["clean"] is True
    assert document.keys() == {
        "format", "version", "program", "clean", "guest_id", "last_sequence", "last_status", "messages",
        "message_numbers", "control", "devices", "changes", "channels",
    }  # fmt: skip
    assert document["changes"] == {"added": [], "removed": []}
    for device in document["devices"]:
        assert device.keys() == {"interface", "instance", "version", "offered", "subchannels", "state"}
    disk, _, card = (device["state"] for device in document["devices"])
    assert disk.keys() == {"negotiation", "units"} and disk["units"]["0:0:0"].keys() == {
        "attentions", "reservations", "write_cache",
    }  # fmt: skip
    assert card.keys() == {"mac", "link_up", "session"}
    assert card["session"]["receive_buffer"].keys() == {
        "gpadl_id", "set_id", "suballocation_size", "next_transaction", "outstanding",
    }  # fmt: skip
    for channel in document["channels"].values():
        assert channel.keys() == {"target_vp", "taken_total", "sent_total", "unsent"}
