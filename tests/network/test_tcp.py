"""The tiny TCP, two of them on a wire that loses, repeats and holds back frames."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import pytest

from vmbus.inet.connection import TcpConnection
from vmbus.inet.frame import OutgoingFrame
from vmbus.inet.host import InetHost
from vmbus.inet.pattern import pattern
from vmbus.inet.sending import BUFFER_BYTES
from vmbus.inet.tcp import TcpStack
from vmbus.loop import Loop
from vmbus.wire.inet import Tcp, TcpFlags

HERE: Final = bytes((10, 0, 0, 1))
THERE: Final = bytes((10, 0, 0, 2))


class Cable:
    """Two hosts on one loop. ``carry`` may change, drop or repeat a frame; ``most`` is how many are taken at once."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.carry: Callable[[bytes], Sequence[bytes]] = lambda frame: [frame]
        self.most = 1 << 30
        self.here = InetHost(self.loop, b"\2\0\0\0\0\1", HERE, lambda frames: self._send(self.there, frames))
        self.there = InetHost(self.loop, b"\2\0\0\0\0\2", THERE, lambda frames: self._send(self.here, frames))

    def _send(self, to: InetHost, frames: Sequence[OutgoingFrame]) -> int:
        taken = min(len(frames), self.most)
        for frame in frames[:taken]:
            for carried in self.carry(frame.frame):
                self.loop.call_soon(lambda carried=carried: to.receive(carried))  # type: ignore[misc]
        self.loop.call_soon(to.flush)
        if taken < len(frames):
            sender = self.here if to is self.there else self.there
            self.loop.call_soon(sender.resume)
        return taken

    def until(self, holds: Callable[[], bool], timeout: float = 60.0) -> None:
        assert self.loop.run(holds, timeout=timeout)


@pytest.fixture
def cable() -> Iterator[Cable]:
    cable = Cable()
    yield cable
    cable.loop.close()


class Echo:
    """A server that sends back what comes."""

    def __init__(self, connection: TcpConnection) -> None:
        self.connection = connection
        connection.on_readable = connection.on_writable = self.pump

    def pump(self, connection: TcpConnection) -> None:
        connection.write(connection.read(connection.room))
        if connection.at_end:
            connection.close()


def exchange(cable: Cable, data: bytes) -> tuple[bytes, TcpConnection]:
    """Send data to an echo server, and close; return what came back."""
    cable.there.tcp.listen(7, Echo)
    connection = cable.here.tcp.connect(THERE, 7)
    received, sent = bytearray(), 0

    def fill(connection: TcpConnection) -> None:
        nonlocal sent
        sent += connection.write(memoryview(data)[sent : sent + BUFFER_BYTES])
        if sent == len(data):
            connection.close()

    connection.on_connected = connection.on_writable = fill
    connection.on_readable = lambda connection: received.extend(connection.read())
    cable.until(lambda: connection.is_over)
    return bytes(received), connection


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent again because this machine is slow."""
    monkeypatch.setattr("vmbus.inet.sending.FIRST_TIMEOUT", 60.0)


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("size", [0, 1, 1459, 1460, 1461, 3_000_000])
def test_what_is_sent_comes_back_and_both_ends_close(cable: Cable, size: int) -> None:
    received, connection = exchange(cable, pattern(1, size))
    assert received == pattern(1, size)
    assert connection.error is None and connection.retransmits == 0
    cable.until(lambda: not cable.there.tcp.connections and not cable.here.tcp.connections)


@pytest.mark.parametrize("seed", range(3))
def test_lost_frames_are_sent_again(cable: Cable, seed: int) -> None:
    chance = random.Random(seed)
    cable.carry = lambda frame: [] if len(frame) > 100 and chance.random() < 0.02 else [frame]
    data = pattern(2, 400_000)
    received, connection = exchange(cable, data)
    assert received == data and connection.error is None
    assert connection.retransmits > 0


def test_frames_that_come_twice_count_once(cable: Cable) -> None:
    cable.carry = lambda frame: [frame, frame]
    received, _ = exchange(cable, pattern(3, 100_000))
    assert received == pattern(3, 100_000)


def test_a_damaged_frame_is_as_good_as_lost(cable: Cable) -> None:
    damaged: list[bytes] = []

    def damage(frame: bytes) -> list[bytes]:
        if len(frame) > 1000 and len(damaged) < 3:
            damaged.append(frame)
            return [frame[:-1] + bytes((frame[-1] ^ 1,))]
        return [frame]

    cable.carry = damage
    received, _ = exchange(cable, pattern(4, 100_000))
    assert received == pattern(4, 100_000) and len(damaged) == 3


@pytest.mark.usefixtures("patience")
def test_a_carrier_that_takes_little_at_a_time_gets_everything(cable: Cable) -> None:
    cable.most = 3
    received, connection = exchange(cable, pattern(5, 500_000))
    assert received == pattern(5, 500_000) and connection.retransmits == 0


def test_a_reader_that_does_not_read_stops_the_writer(cable: Cable) -> None:
    accepted: list[TcpConnection] = []
    cable.there.tcp.listen(7, accepted.append)
    connection = cable.here.tcp.connect(THERE, 7)
    cable.until(lambda: bool(accepted))
    data = pattern(6, 2 * BUFFER_BYTES)
    sent = connection.write(data)
    cable.until(lambda: accepted[0].available == BUFFER_BYTES)
    sent += connection.write(data[sent:])
    cable.loop.run(timeout=0.3)
    assert accepted[0].available == BUFFER_BYTES and connection.room < BUFFER_BYTES // 2
    got = bytearray()
    accepted[0].on_readable = lambda connection: got.extend(connection.read())
    got += accepted[0].read()
    cable.until(lambda: len(got) == sent)
    assert bytes(got) == data[:sent]


def test_a_peer_that_vanishes_is_given_up(cable: Cable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmbus.inet.tcp.TICK_SECONDS", 0.01)
    cable.there.tcp.listen(7, Echo)
    connection = cable.here.tcp.connect(THERE, 7)
    cable.until(lambda: connection.is_established)
    monkeypatch.setattr("vmbus.inet.sending.FIRST_TIMEOUT", 0.01)
    monkeypatch.setattr("vmbus.inet.sending.MOST_TIMEOUTS", 2)
    cable.carry = lambda frame: []
    connection.write(b"anybody there?")
    cable.until(lambda: connection.is_over)
    assert connection.error == "the peer does not answer"


def test_a_reset_ends_a_connection_at_once(cable: Cable) -> None:
    accepted: list[TcpConnection] = []
    cable.there.tcp.listen(7, accepted.append)
    connection = cable.here.tcp.connect(THERE, 7)
    cable.until(lambda: bool(accepted))
    accepted[0].abort()
    cable.until(lambda: connection.is_over)
    assert connection.error == "reset by the peer"
    assert not cable.there.tcp.connections


def test_a_connection_that_only_the_peer_still_knows_makes_way_for_a_new_one(cable: Cable) -> None:
    cable.there.tcp.listen(7, Echo)
    first = cable.here.tcp.connect(THERE, 7)
    cable.until(lambda: first.is_established)
    cable.carry = lambda frame: []
    first.end("this end restarts")
    cable.carry = lambda frame: [frame]
    cable.here.tcp = TcpStack(cable.here)
    again = cable.here.tcp.connect(THERE, 7)
    assert again.key == first.key
    cable.until(lambda: again.is_established)
    assert len(cable.there.tcp.connections) == 1


def test_a_flood_of_connections_is_bounded(cable: Cable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmbus.inet.tcp.MOST_CONNECTIONS", 10)
    cable.there.tcp.listen(7, Echo)
    head = Tcp(source_port=0, destination_port=7, sequence=1, flags=TcpFlags.SYN, window=100)
    cable.there.neighbours[HERE] = cable.here.mac
    for port in range(1000, 1100):
        segment = head.replace(source_port=port).build()
        cable.there.tcp.receive(HERE, segment, 0, len(segment), True)
    assert len(cable.there.tcp.connections) == 10
    assert isinstance(cable.there.tcp, TcpStack)
