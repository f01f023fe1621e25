"""One end of two rings in a process of its own: what ``ring_peer.c`` is for Linux's ring, this is for ours.

``python -m benchmarks.ring_worker MODE SIZE COUNT RING FD WAIT,SIGNAL,FIRST`` with the modes send, receive, ping,
pong and exchange; see there. Both programs can be at either end. ``VMBUS_PURE_PYTHON=1`` chooses the
implementation.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from vmbus.errors import VmbusError
from vmbus.memory import PAGE_SIZE, GuestMemory
from vmbus.ring import IN_BAND, MAX_BATCH, OutgoingPacket, RingPacket
from vmbus.ring.packet import PORTION
from vmbus.ring.pair import map_ring_pair

WAKE_SECONDS = 60
_PATTERN_SIZE = 65536
_PATTERN = bytes((i * 2654435761 >> 13) & 0xFF for i in range(2 * _PATTERN_SIZE))


class LostWakeUp(VmbusError):
    """No signal came although the other end had work for us, or should have."""


class Link:
    """Memory for two rings and an event for each end, to be shared with another process."""

    def __init__(self, ring_size: int) -> None:
        self.ring_size = ring_size
        self.memory = GuestMemory.create(2 * (PAGE_SIZE + ring_size))
        self.events = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]

    def arguments(self, mode: str, size: int, count: int, *, first: bool) -> list[str]:
        """What a program at one end is to be told."""
        wait, signal = self.events if first else reversed(self.events)
        return [mode, str(size), str(count), str(self.ring_size), str(self.memory.fd), f"{wait},{signal},{int(first)}"]

    def start(self, program: Sequence[str], *arguments: str, pure: bool = False) -> subprocess.Popen[str]:
        """Start a program at one end; ``arguments`` come from :meth:`arguments`."""
        return subprocess.Popen(
            [*program, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[self.memory.fd, *self.events],
            env={**os.environ, "VMBUS_PURE_PYTHON": "1" if pure else "0"},
        )

    def endpoint(self, *, first: bool, pure: bool = False) -> Endpoint:
        """The end for this process."""
        wait, signal = self.events if first else reversed(self.events)
        return Endpoint(self.memory, self.ring_size, wait, signal, first=first, pure=pure)

    def close(self) -> None:
        for event in self.events:
            os.close(event)
        self.memory.close()


class Endpoint:
    """Both rings as one end sees them, with an event to wait for and one to signal."""

    def __init__(
        self, memory: GuestMemory, ring_size: int, wait: int, signal: int, *, first: bool, pure: bool = False
    ) -> None:
        pages = 1 + ring_size // PAGE_SIZE
        self._pair = map_ring_pair(memory, range(2 * pages), pages, is_guest=first, pure=pure)
        self.incoming, self.outgoing = self._pair.incoming, self._pair.outgoing
        self._wait, self._signal = wait, signal
        self._poller = select.poll()
        self._poller.register(wait, select.POLLIN)

    @property
    def signals(self) -> int:
        return self.incoming.signals + self.outgoing.signals

    def close(self) -> None:
        self._pair.close()

    def flush(self) -> None:
        """Commit both ways and signal if that is due; once is enough for both."""
        sent, freed = self.outgoing.commit(), self.incoming.commit()
        if sent or freed:
            os.eventfd_write(self._signal, 1)

    def sleep(self, *, reading: bool) -> None:
        """Wait for a packet, or for the room that a write has asked for."""
        if reading and self.incoming.unmask_interrupts():
            self.incoming.mask_interrupts()
            return
        if not self._poller.poll(WAKE_SECONDS * 1000):
            raise LostWakeUp(f"no signal within {WAKE_SECONDS} s: {self.incoming.memory.state()}")
        os.eventfd_read(self._wait)
        if reading:
            self.incoming.mask_interrupts()

    def send(self, packets: Sequence[OutgoingPacket]) -> None:
        """Send all of them, sleeping while there is no room."""
        while packets:
            written = self.outgoing.write_batch(packets, PORTION)
            self.flush()
            packets = packets[written:]
            if self.outgoing.waiting:
                self.sleep(reading=False)

    def receive(self, limit: int = MAX_BATCH) -> list[RingPacket]:
        """Take at least one packet, sleeping while there is none; the next call commits them."""
        while not (packets := self.incoming.read_batch(limit)):
            self.flush()
            self.sleep(reading=True)
        return packets


def exchange_packets(start: int, count: int) -> Iterator[tuple[OutgoingPacket, bytes]]:
    """Yield the packets of an exchange from number ``start`` on, each with the payload that is to arrive."""
    for i in range(start, start + count):
        length = 12000 if i % 997 == 0 else 8 + i * 7919 % 1009
        at = i * 8 % _PATTERN_SIZE
        payload = i.to_bytes(8, "little") + _PATTERN[at : at + length - 8]
        yield (IN_BAND, 0, 0, b"", payload), payload + bytes(-length % 8)


def exchange(end: Endpoint, count: int) -> None:
    """Send and receive ``count`` packets at once and check every byte; ValueError at the first that is wrong."""
    outgoing = exchange_packets(0, count)
    expected = exchange_packets(0, count)
    pending: list[OutgoingPacket] = []
    sent = received = 0
    while sent < count or received < count:
        for packet, _ in outgoing:
            pending.append(packet)
            if len(pending) >= MAX_BATCH:
                break
        written = end.outgoing.write_batch(pending)
        del pending[:written]
        sent += written
        packets = end.incoming.read_batch()
        for packet, (_, payload) in zip(packets, expected, strict=False):
            if packet.payload != payload:
                raise ValueError(f"packet {received} has a wrong payload")
            received += 1
        end.flush()
        if not written and not packets:
            end.sleep(reading=received < count)


def run(end: Endpoint, mode: str, size: int, count: int) -> None:
    """Play one role to its end."""
    packet: OutgoingPacket = (IN_BAND, 0, 0, b"", b"x" * size)
    if mode == "send":
        for start in range(0, count, MAX_BATCH):
            end.send([packet] * min(MAX_BATCH, count - start))
        end.receive()
    elif mode == "receive":
        received = 0
        while received < count:
            received += len(end.receive())
            end.flush()
        end.send([(IN_BAND, 0, 0, b"", bytes(8))])
    elif mode in ("ping", "pong"):
        for _ in range(count):
            if mode == "ping":
                end.send([packet])
            end.receive(1)
            if mode == "pong":
                end.send([packet])
        end.flush()
    else:
        exchange(end, count)


def main(arguments: list[str]) -> int:
    mode, size, count, ring_size, fd, events = arguments
    wait, signal, first = map(int, events.split(","))
    memory = GuestMemory.attach(int(fd), 2 * (PAGE_SIZE + int(ring_size)))
    end = Endpoint(memory, int(ring_size), wait, signal, first=bool(first))
    start = time.perf_counter()
    run(end, mode, int(size), int(count))
    print(count, f"{time.perf_counter() - start:.9f}", end.signals)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
