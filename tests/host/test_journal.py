"""The journal tells, from what a process left behind at any point, exactly what the guest is still owed."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmbus.host.journal import HEADER_SIZE, Journal, JournalError
from vmbus.host.journal_reader import read_journal
from vmbus.ring import RingPacket
from vmbus.ring.packet import COMPLETION, IN_BAND, TRANSFER_PAGES, OutgoingPacket


def request(transaction_id: int, *, wants_completion: bool = True) -> RingPacket:
    return RingPacket(9, int(wants_completion), transaction_id, b"e" * 8, b"payload!" * 2, 0)


def answer(transaction_id: int) -> OutgoingPacket:
    return (COMPLETION, 0, transaction_id, b"", b"done....")


class Channel:
    """A channel's two indices as they stand in the guest's memory, and the journal of its host."""

    def __init__(self, path: Path, **options: int) -> None:
        self.path = path
        self.journal = Journal(path, **options)
        self.read_index = self.write_index = 0

    def take(self, *packets: RingPacket, commit: bool = True) -> None:
        after = self.read_index + 64 * len(packets)
        self.journal.taken(3, self.read_index, after, packets)
        if commit:
            self.read_index = after

    def send(self, *packets: OutgoingPacket, commit: bool = True) -> None:
        after = self.write_index + 32 * len(packets)
        self.journal.sent(3, self.write_index, after, packets)
        if commit:
            self.write_index = after

    def owed(self) -> list[int]:
        debts = read_journal(self.path, lambda channel: (self.read_index, self.write_index) if channel == 3 else None)
        return [packet.transaction_id for packet in debts[3].packets()] if 3 in debts else []


@pytest.fixture
def channel(tmp_path: Path) -> Channel:
    return Channel(tmp_path / "journal")


def test_what_was_taken_and_not_answered_is_owed_with_all_its_bytes(channel: Channel) -> None:
    channel.take(request(1), request(2), request(3, wants_completion=False))
    channel.send(answer(1))
    assert channel.owed() == [2]
    debts = read_journal(channel.path, lambda _: (channel.read_index, channel.write_index))
    assert debts[3].packets() == [request(2)]


def test_a_batch_whose_read_index_was_not_committed_is_still_in_the_ring_and_not_owed(channel: Channel) -> None:
    channel.take(request(1))
    channel.take(request(2), commit=False)
    assert channel.owed() == [1]


def test_an_answer_whose_write_index_was_not_committed_is_owed_again(channel: Channel) -> None:
    channel.take(request(1), request(2))
    channel.send(answer(1))
    channel.send(answer(2), commit=False)
    assert channel.owed() == [2]


def test_the_same_transaction_id_twice_is_owed_twice(channel: Channel) -> None:
    channel.take(request(7), request(7))
    channel.send(answer(7))
    assert channel.owed() == [7]


def test_a_closed_channel_owes_nothing(channel: Channel) -> None:
    channel.take(request(1))
    channel.journal.closed(3)
    assert channel.owed() == []


def test_a_later_process_goes_on_with_what_it_found(channel: Channel, tmp_path: Path) -> None:
    channel.take(request(1), request(2))
    channel.send(answer(1), (IN_BAND, 0, 0, b"", b""))
    debts = read_journal(channel.path, lambda _: (channel.read_index, channel.write_index))
    assert (debts[3].taken_total, debts[3].sent_total) == (2, 2)
    later = Channel(tmp_path / "later")
    later.journal.adopt(debts)
    assert later.owed() == [2]
    later.send(answer(2))
    assert later.owed() == []


def test_a_batch_that_the_state_knows_of_counts_and_is_to_be_skipped_in_the_ring(channel: Channel) -> None:
    channel.take(request(1))
    channel.take(request(2), request(3), commit=False)
    stand = (channel.read_index, channel.write_index)
    before = read_journal(channel.path, lambda _: stand, {3: 1})[3]
    assert [packet.transaction_id for packet in before.packets()] == [1] and before.to_skip == 0
    after = read_journal(channel.path, lambda _: stand, {3: 3})[3]
    assert [packet.transaction_id for packet in after.packets()] == [1, 2, 3] and after.to_skip == 2


def test_what_was_lent_to_the_guest_is_known_until_it_comes_back(channel: Channel, tmp_path: Path) -> None:
    loans: list[OutgoingPacket] = [(TRANSFER_PAGES, 1, number, b"ranges.%d" % number, b"") for number in (1, 2, 3)]
    channel.send(*loans[:2])
    channel.take(RingPacket(COMPLETION, 0, 1, b"", b"", 0))
    channel.send(loans[2], commit=False)
    stand = (channel.read_index, channel.write_index)
    debts = read_journal(channel.path, lambda _: stand)
    assert debts[3].lent == {2: b"ranges.2"}
    later = Channel(tmp_path / "later")
    later.journal.adopt(debts)
    assert read_journal(later.path, lambda _: stand)[3].lent == {2: b"ranges.2"}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32), crash=st.integers(0, 3))
def test_any_history_leaves_exactly_the_unanswered_requests(
    tmp_path_factory: pytest.TempPathFactory, seed: int, crash: int
) -> None:
    chance = random.Random(seed)
    channel = Channel(tmp_path_factory.mktemp("journal") / "j", half_size=8192)
    waiting: list[int] = []
    for number in range(chance.randrange(1, 300)):
        if waiting and (chance.random() < 0.55 or len(waiting) > 40):
            done = [waiting.pop(chance.randrange(len(waiting))) for _ in range(min(len(waiting), 3))]
            channel.send(*map(answer, done))
        else:
            waiting.append(number)
            channel.take(request(number), request(number, wants_completion=False))
    if crash == 1:
        channel.take(request(9999), commit=False)
    elif crash == 2 and waiting:
        channel.send(answer(waiting[0]), commit=False)
    assert sorted(channel.owed()) == sorted(waiting)


@pytest.mark.parametrize("damage", ["empty", "foreign", "header", "cut"])
def test_a_file_that_is_no_journal_is_refused_in_one_line(channel: Channel, damage: str) -> None:
    channel.take(request(1))
    data = bytearray(channel.path.read_bytes())
    if damage == "empty":
        data.clear()
    elif damage == "foreign":
        data[:4] = b"XXXX"
    elif damage == "header":
        data[8:16] = b"\xff" * 8
    else:
        data[HEADER_SIZE] = 0xFF
    channel.path.write_bytes(data)
    with pytest.raises(JournalError):
        channel.owed()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_byte_of_a_journal_can_change_unnoticed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    channel = Channel(tmp_path_factory.mktemp("journal") / "j", half_size=4096)
    for number in range(data.draw(st.integers(1, 60))):
        channel.take(request(number))
        channel.send(answer(number))
    content = bytearray(channel.path.read_bytes())
    active = content[8]
    used = int.from_bytes(content[16 + 8 * active : 20 + 8 * active], "little")
    start = HEADER_SIZE + active * 4096
    words = [*range(16), *range(16 + 8 * active, 24 + 8 * active)]
    place = data.draw(st.sampled_from([*words, *range(start, start + used)]))
    content[place] ^= data.draw(st.integers(1, 255))
    if content[4:8] == b"\2\0\0\0":
        return  # it says that it is older, and has no checksums
    channel.path.write_bytes(content)
    with pytest.raises(JournalError):
        channel.owed()


def test_no_bit_of_the_word_that_names_the_active_half_can_change_unnoticed(tmp_path: Path) -> None:
    channel = Channel(tmp_path / "j", half_size=4096)
    for number in range(60):  # until the other half has been active, and would be sound by itself
        channel.take(request(number))
        channel.send(answer(number))
    content = channel.path.read_bytes()
    assert content[16:24] != bytes(8) != content[24:32]
    for bit in range(64):
        damaged = bytearray(content)
        damaged[8 + bit // 8] ^= 1 << bit % 8
        channel.path.write_bytes(damaged)
        with pytest.raises(JournalError, match="no half of it is the active one"):
            channel.owed()


def test_a_torn_entry_is_noticed(channel: Channel) -> None:
    channel.take(request(1), request(2))
    before = channel.path.read_bytes()
    channel.take(request(3), request(4))
    after = channel.path.read_bytes()
    used = [int.from_bytes(content[16:20], "little") for content in (before, after)]
    torn = bytearray(after)
    middle = HEADER_SIZE + (used[0] + used[1]) // 2
    torn[middle : HEADER_SIZE + used[1]] = bytes(HEADER_SIZE + used[1] - middle)
    channel.path.write_bytes(torn)
    with pytest.raises(JournalError, match="do not agree"):
        channel.owed()


def test_a_journal_without_checksums_is_read(channel: Channel) -> None:
    channel.take(request(1), request(2))
    channel.send(answer(1))
    content = bytearray(channel.path.read_bytes())
    content[4] = 2
    content[12:16] = content[20:24] = bytes(4)
    channel.path.write_bytes(content)
    assert channel.owed() == [2]


def test_more_than_the_journal_holds_is_an_error_and_not_a_loss(tmp_path: Path) -> None:
    channel = Channel(tmp_path / "small", half_size=1024)
    channel.take(*(request(number) for number in range(10)))
    channel.take(*(request(number) for number in range(10, 16)))
    with pytest.raises(JournalError, match="owed more"):
        channel.take(*(request(number) for number in range(16, 40)))
    assert channel.owed() == list(range(16))
    channel.send(*(answer(number) for number in range(8)))
    channel.take(request(16))
    assert channel.owed() == list(range(8, 17))


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_journal_that_the_disk_has_no_room_for_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", full_disk)
    with pytest.raises(JournalError, match=r"cannot write the journal .*: No space left"):
        Journal(tmp_path / "journal")


def test_a_disk_that_is_full_by_now_matters_only_when_more_is_owed_than_usual(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", full_disk)
    for number in range(50_000):
        channel.take(request(number))
        channel.send(answer(number))
    owed = (channel.take(request(number)) for number in range(50_000))
    with pytest.raises(JournalError, match="No space left"):
        list(owed)
    assert channel.owed()  # what was written before can be read
