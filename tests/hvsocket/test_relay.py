"""Sockets between a Python guest and Unix sockets of the host: both directions, ends, refusals, crowds, deaths."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from pathlib import Path

import pytest

from vmbus.devices.hvsocket.relay import MAX_REQUESTS
from vmbus.drivers.errors import DriverError
from vmbus.drivers.hvsocket import GuestStream
from vmbus.drivers.promise import Promise
from vmbus.ring.packet import IN_BAND
from vmbus.testing.vsock import VsockPair
from vmbus.testing.waiting import until
from vmbus.wire.hvsocket import service_of_port

LARGE = random.Random(5).randbytes(3 << 20)


def read_to_end(connection: socket.socket) -> bytes:
    data = bytearray()
    while received := connection.recv(1 << 16):
        data += received
    return bytes(data)


def read_line(connection: socket.socket) -> bytes:
    """A line, and nothing of what follows it."""
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        assert byte, line
        line += byte
    return line


def established(joined: VsockPair, port: int = 9) -> tuple[GuestStream, socket.socket]:
    """A connection that the guest has made: the guest's end and the host's."""
    with joined.listen(port) as listener:
        stream = joined.guest_connects(port)
        connection, _ = listener.accept()
    connection.settimeout(60)
    return stream, connection


def accepted(joined: VsockPair, port: int = 9) -> tuple[GuestStream, socket.socket]:
    """A connection that the host has made: the guest's end and the host's, its answer read."""
    joined.sockets.listen(port)
    connection = joined.connect(port)
    stream = joined.accepted(port)
    assert read_line(connection).startswith(b"OK ")
    return stream, connection


@pytest.mark.parametrize("make", [established, accepted])
def test_a_stream_carries_both_directions_and_ends_in_each_by_itself(joined: VsockPair, make: object) -> None:
    stream, connection = make(joined)  # type: ignore[operator]
    stream.send(LARGE)
    stream.shutdown()
    assert joined.beside(lambda: read_to_end(connection)) == LARGE and not stream.ended
    writer = threading.Thread(target=lambda: (connection.sendall(LARGE), connection.close()))
    writer.start()
    assert joined.run_guest(stream) == LARGE
    writer.join()
    assert joined.settled()


def test_the_answer_names_the_connections_own_port(joined: VsockPair) -> None:
    joined.sockets.listen(4000)
    with joined.connect(4000) as connection:
        stream = joined.accepted(4000)
        assert read_line(connection) == f"OK {stream.channel.instance_id.fields[0]}\n".encode()


def test_a_service_by_its_whole_id_reaches_the_port_that_it_stands_for(joined: VsockPair) -> None:
    joined.sockets.listen(0x123)
    with joined.connect("00000123-facb-11e6-bd58-64006a7986d3") as connection:
        stream = joined.accepted(0x123)
        assert read_line(connection) == f"OK {stream.channel.instance_id}\n".encode()


def test_what_follows_the_request_at_once_is_not_lost(joined: VsockPair) -> None:
    joined.sockets.listen(5)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(joined.path))
        connection.sendall(b"CONNECT 5\nearly")
        assert joined.run_guest(joined.accepted(5), 5) == b"early"


def test_a_port_that_nobody_offers_is_refused(joined: VsockPair) -> None:
    with pytest.raises(DriverError, match="refused"):
        joined.guest_connects(77)
    joined.listen(78).close()
    with pytest.raises(DriverError, match="refused"):
        joined.guest_connects(78)
    assert joined.settled()


def test_a_port_that_the_guest_does_not_listen_at_is_closed_without_a_word(
    joined: VsockPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmbus.devices.hvsocket.relay.ACCEPT_SECONDS", 0.1)
    with joined.connect(1234) as connection:
        joined.pair.guest.loop.run(timeout=0.5)
        assert connection.recv(100) == b""
    assert joined.settled()


@pytest.mark.parametrize("line", [b"HELLO\n", b"CONNECT x\n", b"x" * 100, b""])
def test_a_bad_request_is_closed_and_does_no_harm(joined: VsockPair, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(joined.path))
        connection.sendall(line)
        connection.shutdown(socket.SHUT_WR)
        try:
            assert connection.recv(100) == b""
        except ConnectionResetError:
            pass  # it was closed before it had read everything
    established(joined)[1].close()


def test_many_connections_at_once_keep_their_bytes_apart(joined: VsockPair) -> None:
    joined.sockets.listen(7)
    contents = [random.Random(number).randbytes(20_000 + number) for number in range(40)]
    streams, connections = [], []
    with joined.listen(8, backlog=2) as listener:
        for content in contents[:20]:
            streams.append(joined.guest_connects(8))
            connections.append(listener.accept()[0])
            connections[-1].sendall(content)
    for content in contents[20:]:
        connections.append(joined.connect(7))
        streams.append(joined.accepted(7))
        connections[-1].sendall(content)
    for stream, content in zip(streams, contents, strict=True):
        assert joined.run_guest(stream, len(content)) == content
        stream.send(content)
    for connection, content in zip(connections, contents, strict=True):
        connection.settimeout(0.001)
        received = bytearray()
        while not received.endswith(content):
            joined.pair.guest.loop.run_once(0.0)
            try:
                received += connection.recv(1 << 16)
            except TimeoutError:
                pass
        connection.close()
    assert joined.settled()


def test_a_reader_that_is_slow_makes_the_sender_wait_and_loses_nothing(joined: VsockPair) -> None:
    stream, connection = established(joined)
    stream.send(LARGE)
    joined.pair.guest.loop.run(timeout=0.3)
    assert stream.unsent > len(LARGE) // 2, "ring and socket hold a part, the rest has to wait"
    waiting = joined.pair.in_host(lambda: joined.relay.connections[0].inspect()["waiting_for_the_socket"])
    assert waiting <= stream.channel.outgoing.memory.size
    stream.shutdown()
    assert joined.beside(lambda: read_to_end(connection)) == LARGE
    connection.close()


def test_a_host_that_closes_takes_the_channel_back_and_what_it_sent_arrives(joined: VsockPair) -> None:
    stream, connection = established(joined)
    connection.sendall(b"last words")
    connection.close()
    assert joined.run_guest(stream) == b"last words"
    assert joined.pair.guest.loop.run(lambda: stream.closed, timeout=60)
    assert joined.settled()


def test_a_guest_that_drops_the_channel_ends_the_connection_with_what_it_sent(joined: VsockPair) -> None:
    stream, connection = established(joined)
    stream.send(b"last words")
    joined.pair.guest.loop.run(timeout=0.1)
    stream.close()
    assert read_to_end(connection) == b"last words"
    connection.close()
    assert joined.settled()


def test_a_guest_that_dies_ends_its_connections_and_the_next_one_has_none_of_them(joined: VsockPair) -> None:
    stream, connection = established(joined)
    joined.sockets.listen(6)
    asking = joined.connect(6)
    other = joined.accepted(6)
    assert stream is not other
    joined.pair.guest.close()
    for ended in (connection, asking):
        assert read_to_end(ended).startswith(b"OK") == (ended is asking)
        ended.close()
    joined.pair.new_guest().boot()
    assert not joined.pair.guest.offers and joined.settled()
    established(joined, 11)[1].close()


def test_without_a_guest_a_connection_is_closed_at_once(joined: VsockPair) -> None:
    joined.pair.guest.close()
    assert until(lambda: not joined.pair.in_host(lambda: joined.pair.host.has_guest))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(joined.path))
        assert connection.recv(10) == b""


@pytest.mark.parametrize(
    "payload", [b"", b"\1\0\0\0\xff\0\0\0", b"\2\0\0\0\0\0\0\0", b"\1\0\0\0\0\0\1\0" + bytes(70000 % 4096)]
)
def test_a_guest_that_sends_no_pipe_loses_that_connection_alone(joined: VsockPair, payload: bytes) -> None:
    stream, connection = established(joined)
    other, other_connection = established(joined, 10)
    stream.channel.send(IN_BAND, payload)
    joined.pair.guest.loop.run(lambda: stream.closed, timeout=60)
    assert read_to_end(connection) == b"" and not other.closed
    other_connection.sendall(b"alive")
    assert joined.run_guest(other, 5) == b"alive"


def test_the_relays_socket_is_the_owners_alone_and_goes_with_it(joined: VsockPair) -> None:
    assert joined.path.stat().st_mode & 0o777 == 0o600
    joined.pair.in_host(joined.relay.close)
    assert not Path(joined.path).exists()


def wishes(joined: VsockPair, count: int, port: int) -> list[Promise[int]]:
    """So many connections that the guest asks for at once."""
    services = [(service_of_port(port), service_of_port(0x9000_0000 + number)) for number in range(count)]
    return [joined.pair.guest.bus.connect_socket(*service) for service in services]


def test_requests_for_a_busy_listener_wait_in_turn_and_hold_up_no_other(joined: VsockPair) -> None:
    count = 3 * MAX_REQUESTS
    with joined.listen(20, backlog=0) as listener, joined.listen(21) as other:
        asked = wishes(joined, count, 20)
        stream = joined.guest_connects(21)
        other.accept()[0].close()
        assert not all(one.done for one in asked) and joined.run_guest(stream) == b""
        accepted = joined.beside(lambda: [listener.accept()[0] for _ in range(count)])
        assert joined.pair.guest.loop.run(lambda: all(one.done for one in asked), timeout=60)
    for connection in accepted:
        connection.close()
    assert len({one.result() for one in asked}) == count
    assert joined.settled()


def test_a_listener_that_stays_busy_is_a_refusal(joined: VsockPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmbus.devices.hvsocket.relay.BUSY_SECONDS", 0.1)
    with joined.listen(20, backlog=0):
        asked = wishes(joined, 4, 20)
        assert joined.pair.guest.loop.run(lambda: all(one.done for one in asked), timeout=60)
        with pytest.raises(DriverError, match="refused"):
            asked[-1].result()


def test_more_requests_than_there_may_be_connections_are_refused(
    joined: VsockPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmbus.devices.hvsocket.relay.MAX_CONNECTIONS", 5)
    with joined.listen(20, backlog=0):
        asked = wishes(joined, 8, 20)
        assert joined.pair.guest.loop.run(lambda: all(one.done for one in asked[5:]), timeout=60)
        assert not asked[4].done
        with pytest.raises(DriverError, match="refused"):
            asked[5].result()


def test_what_a_guest_that_died_was_waiting_for_is_not_offered_to_the_next(joined: VsockPair) -> None:
    with joined.listen(20, backlog=0) as listener:
        wishes(joined, 4, 20)
        joined.pair.guest.close()
        joined.pair.new_guest().boot()
        listener.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            while True:
                listener.accept()[0].close()
        joined.pair.guest.loop.run(timeout=0.1)
        assert not joined.pair.guest.offers and joined.settled()
