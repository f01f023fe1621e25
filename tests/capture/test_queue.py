"""The queue between the host's loop and the capture writer."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from vmbus.capture.queue import Consumer, Producer, QueueMemory


@pytest.fixture
def memory() -> Iterator[QueueMemory]:
    memory = QueueMemory.create(65536)
    yield memory
    memory.close()


@pytest.fixture
def doorbell() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def test_what_is_put_comes_out_in_order_around_the_end(memory: QueueMemory, doorbell: int) -> None:
    producer, consumer = Producer(memory, doorbell), Consumer(memory)
    for number in range(100):
        pieces = [bytes([number]) * (1000 + number), b"x" * number]
        assert all(producer.put(piece, 1) for piece in pieces)
        assert consumer.take() == b"".join(pieces)
    assert consumer.is_empty


def test_it_is_bounded_and_keeps_an_eighth_for_the_control_plane(memory: QueueMemory, doorbell: int) -> None:
    producer = Producer(memory, doorbell)
    while producer.put(bytes(4096), 1):
        pass
    assert memory.words[0] == 65536 - 8192
    assert producer.put(bytes(8192), 1, reserve=False)
    assert not producer.put(b"x", 1, reserve=False)


def test_it_rings_only_for_a_consumer_that_sleeps(memory: QueueMemory, doorbell: int) -> None:
    producer, consumer = Producer(memory, doorbell), Consumer(memory)
    producer.put(b"one", 1)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(doorbell)
    assert not consumer.sleep()  # there is something to take
    consumer.take()
    assert consumer.sleep()
    producer.put(b"two", 1)
    producer.put(b"three", 1)
    assert os.eventfd_read(doorbell) == 1


def test_another_process_sees_what_was_put(memory: QueueMemory, doorbell: int) -> None:
    Producer(memory, doorbell).put(b"still here", 1)
    other = QueueMemory.attach(memory.fd)
    assert Consumer(other).take() == b"still here"
    other.close()


def test_an_index_that_cannot_be_is_not_followed(memory: QueueMemory) -> None:
    consumer = Consumer(memory)
    memory.words[0] = 1 << 60
    assert consumer.take() == b""


def test_a_retired_producer_takes_nothing_and_needs_no_memory(memory: QueueMemory, doorbell: int) -> None:
    producer = Producer(memory, doorbell)
    producer.retire()
    assert not producer.put(b"x", 1)
    producer.lose(1)
    assert memory.words[2] == 0
