"""A channel carries packets in order, completes transactions and survives a full ring."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from vmbus.channel import BacklogFull, Channel, ChannelHandler
from vmbus.gpadl import GpaRange
from vmbus.ring import RingPacket
from vmbus.testing.channels import ChannelPair


class Recorder(ChannelHandler):
    def __init__(self, channel: Channel, *, echo: bool = False) -> None:
        self.channel = channel
        self.packets: list[RingPacket] = []
        self.echo = echo
        self.closed = False

    def on_packets(self, packets: Sequence[RingPacket]) -> None:
        self.packets += packets
        if self.echo:
            for packet in packets:
                self.channel.complete(packet.transaction_id, packet.payload)

    def on_close(self) -> None:
        self.closed = True


def listen(pair: ChannelPair) -> tuple[Recorder, Recorder]:
    host, guest = Recorder(pair.host, echo=True), Recorder(pair.guest)
    pair.host.handler, pair.guest.handler = host, guest
    return host, guest


def test_a_packet_is_answered_by_its_completion() -> None:
    with ChannelPair() as pair:
        host, guest = listen(pair)
        pair.guest.send_in_band(b"question", transaction_id=7, completion_requested=True)
        pair.pump()
        assert [packet.payload for packet in host.packets] == [b"question"]
        assert [(p.packet_type, p.transaction_id, p.payload) for p in guest.packets] == [(11, 7, b"question")]


def test_more_packets_than_the_ring_holds_arrive_in_order() -> None:
    with ChannelPair(ring_pages=2) as pair:
        host, guest = listen(pair)
        for number in range(3000):
            pair.guest.send_in_band(number.to_bytes(8, "little") * 8, transaction_id=number)
        pair.pump()
        assert [packet.transaction_id for packet in host.packets] == list(range(3000))
        assert [packet.transaction_id for packet in guest.packets] == list(range(3000))
        assert pair.guest.counters.backlog_peak > 0


def test_a_gpa_direct_packet_names_the_guests_pages() -> None:
    with ChannelPair() as pair:
        host, _ = listen(pair)
        first, second = pair.pages.allocate(2)
        pair.memory.write(first * 4096 + 100, b"x" * 5000)
        pair.guest.send_gpa_direct([GpaRange(5000, 100, (first, second))], b"write!!!", transaction_id=1)
        pair.pump()
        views = pair.host.data_from_guest(host.packets[0])
        assert b"".join(views) == b"x" * 5000
        for view in views:
            view.release()


def test_a_bad_ring_index_fails_only_its_channel() -> None:
    with ChannelPair() as pair, ChannelPair() as other:
        host, _ = listen(pair)
        pair.host.incoming.memory.words[0] = 0xFFFFFFF0
        pair.host.on_signal()
        assert host.closed and not pair.host.is_open and "write index" in str(pair.failures[0])
        assert other.host.is_open


def test_a_peer_that_takes_nothing_makes_the_channel_hold_so_many_bytes_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vmbus.channel.sending.MAX_BACKLOG_BYTES", 64 << 10)
    with ChannelPair(ring_pages=2) as pair:
        host, _ = listen(pair)
        for _ in range(40):
            pair.host.send_in_band(bytes(4000))
        pair.host.flush()
        assert host.closed and isinstance(pair.failures[0], BacklogFull) and "bytes wait" in str(pair.failures[0])
