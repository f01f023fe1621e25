"""A guest that breaks the rules loses its channel or its connection, and the host serves the next one."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmbus.devices.echo import Echo
from vmbus.gpadl import GpaRange
from vmbus.memory import GuestMemory
from vmbus.testing.partitions import PartitionPair
from vmbus.transport.client import HostConnection, HostGone, new_interrupts
from vmbus.transport.frames import build_frame
from vmbus.wire.control import GpadlHeader, OpenChannel
from vmbus.wire.control_values import MULTICLIENT_CONNECTION_ID, SYNIC_MESSAGE_TYPE
from vmbus.wire.hypervisor import HvStatus, Msr
from vmbus.wire.partition import Hello, Operation, PostMessage, SetRegister


class RawGuest:
    """A guest that says hello and then whatever it likes."""

    def __init__(self, connection: socket.socket) -> None:
        self.memory = GuestMemory.create(1 << 20)
        self.interrupts = new_interrupts(1)
        self.socket = connection
        self.connection = HostConnection(connection)
        self.connection.hello(self.memory, self.interrupts, uuid4())

    def close(self) -> None:
        self.connection.close()
        for interrupt in self.interrupts:
            os.close(interrupt)
        self.memory.close()


@pytest.fixture
def pair() -> Iterator[PartitionPair]:
    pair = PartitionPair([Echo()]).start()
    yield pair
    pair.close()


def next_guest_is_served(pair: PartitionPair) -> bool:
    guest = pair.new_guest()
    guest.boot()
    found = len(guest.offers)
    guest.close()
    return found == 1


def is_disconnected(raw: RawGuest) -> bool:
    raw.socket.settimeout(60)
    try:
        while raw.socket.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(struct.pack("<IHHII", 4, 5, 0, 0, 0), id="a frame shorter than its header"),
        pytest.param(struct.pack("<IHHII", 1 << 30, 5, 0, 0, 0), id="a frame of a gigabyte"),
        pytest.param(build_frame(Operation.SIGNAL_EVENT, b"\1\2"), id="a signal cut short"),
        pytest.param(build_frame(Operation.SIGNAL_EVENT, bytes(8), vp=7), id="a processor that is not there"),
        pytest.param(build_frame(Operation(99), bytes(8)), id="an unknown operation"),
        pytest.param(
            build_frame(Operation.POST_MESSAGE, PostMessage(connection_id=1, message_type=1, payload_size=241)),
            id="a message longer than messages are",
        ),
        pytest.param(
            build_frame(Operation.SET_REGISTER, SetRegister(number=int(Msr.SIMP), value=1 << 40 | 1)),
            id="a message page outside memory",
        ),
        pytest.param(build_frame(Operation.HELLO, Hello(memory_size=4096, guest_id=uuid4())), id="a second hello"),
    ],
)
def test_a_frame_that_makes_no_sense_ends_the_connection_and_the_host_lives(pair: PartitionPair, data: bytes) -> None:
    raw = RawGuest(pair.connect())
    raw.socket.sendall(data)
    assert is_disconnected(raw)
    raw.close()
    assert next_guest_is_served(pair)


@pytest.mark.parametrize("cut", [0, 1, 8, 20, 60])
def test_a_guest_that_dies_within_its_hello_is_forgotten(pair: PartitionPair, cut: int) -> None:
    connection = pair.connect()
    connection.sendall(build_frame(Operation.HELLO, Hello(memory_size=4096, guest_id=uuid4()), sequence=1)[:cut])
    connection.close()
    assert next_guest_is_served(pair)


def test_a_first_frame_that_is_no_hello_is_refused(pair: PartitionPair) -> None:
    connection = pair.connect()
    connection.sendall(build_frame(Operation.SIGNAL_EVENT, bytes(8)))
    connection.settimeout(60)
    assert connection.recv(100) == b""
    connection.close()
    assert next_guest_is_served(pair)


def test_messages_to_connections_that_do_not_exist_are_refused_as_the_hypervisor_would(pair: PartitionPair) -> None:
    raw = RawGuest(pair.connect())
    assert raw.connection.post_message(0, 99, SYNIC_MESSAGE_TYPE, b"hello") == HvStatus.INVALID_CONNECTION_ID
    assert raw.connection.post_message(0, 1, 7, b"hello") == HvStatus.INVALID_PARAMETER
    raw.close()


@given(messages=st.lists(st.binary(max_size=240), max_size=20))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_control_messages_of_any_bytes_leave_the_host_alive(pair: PartitionPair, messages: list[bytes]) -> None:
    raw = RawGuest(pair.connect())
    try:
        for message in messages:
            raw.connection.post_message(0, MULTICLIENT_CONNECTION_ID, SYNIC_MESSAGE_TYPE, message)
    except HostGone:
        pass
    raw.close()
    assert next_guest_is_served(pair)


def test_a_gpadl_with_pages_outside_memory_is_refused(pair: PartitionPair) -> None:
    guest = pair.new_guest()
    guest.boot()
    (channel_id,) = guest.offers
    beyond = guest.memory.size // 4096
    gpadl_id = guest.control.create_gpadl(channel_id, [GpaRange(4096, 0, (beyond,))])
    guest.post()
    assert guest.loop.run(lambda: gpadl_id not in guest.control.gpadls, timeout=60)
    guest.close()
    assert next_guest_is_served(pair)


def test_a_ring_gpadl_that_the_guest_changes_after_it_was_created_is_the_one_that_was_created(
    pair: PartitionPair,
) -> None:
    guest = pair.new_guest()
    guest.boot()
    (channel_id,) = guest.offers
    pfns = guest.pages.allocate(4)
    gpadl_id = guest.control.create_gpadl(channel_id, [GpaRange(4 * 4096, 0, pfns)])
    again = GpadlHeader(channel_id=channel_id, gpadl_id=gpadl_id, range_bytes=16, range_count=1, words=(4096, 9))
    guest.post()
    guest.loop.run(lambda: not guest.control.gpadls[gpadl_id].waits, timeout=60)
    guest._connection.post_message(0, MULTICLIENT_CONNECTION_ID, 1, struct.pack("<II", 8, 0) + again.build())
    assert pair.in_host(lambda: pair.host.partition.gpadls[channel_id][gpadl_id].byte_count) == 4 * 4096  # type: ignore[union-attr]
    guest.close()


@pytest.mark.parametrize("offset", [0, 1, 3, 4, 0xFFFFFFFF])
def test_an_open_with_rings_that_cannot_be_is_refused_and_the_channel_can_be_opened_later(
    pair: PartitionPair, offset: int
) -> None:
    guest = pair.new_guest()
    guest.boot()
    (channel_id,) = guest.offers
    pfns = guest.pages.allocate(4)
    gpadl_id = guest.control.create_gpadl(channel_id, [GpaRange(4 * 4096, 0, pfns)])
    guest.post()
    guest.loop.run(lambda: not guest.control.gpadls[gpadl_id].waits, timeout=60)
    request = OpenChannel(
        channel_id=channel_id,
        open_id=1,
        ring_gpadl_id=gpadl_id,
        target_vp=0,
        downstream_page_offset=offset,
        user_data=b"",
    )
    guest._connection.post_message(0, MULTICLIENT_CONNECTION_ID, 1, struct.pack("<II", 5, 0) + request.build())
    assert pair.in_host(lambda: len(pair.host.partition.channels)) == 0  # type: ignore[union-attr]
    opened = guest.bus.open(guest.offers[channel_id], 1, 1)
    assert guest.bus.wait(opened).is_open
    guest.close()


def test_the_rings_of_an_open_channel_are_the_hosts_until_it_is_closed(pair: PartitionPair) -> None:
    guest = pair.new_guest()
    guest.boot()
    (channel_id,) = guest.offers
    channel = guest.bus.wait(guest.bus.open(guest.offers[channel_id], 1, 1))
    (ring,) = guest.control.gpadls
    guest.control.teardown_gpadl(ring)
    guest.post()
    guest.loop.run(timeout=0.2)
    assert ring in guest.control.gpadls
    channel.close()
    guest.control.close(channel_id)
    guest.post()
    assert guest.loop.run(lambda: ring not in guest.control.gpadls, timeout=60)
    guest.close()
    assert next_guest_is_served(pair)
