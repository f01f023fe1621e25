"""The guest end of the echo device, and a load that notices every byte that does not come back.

The device completes what asks for a completion, and sends everything else back in band, in order
(``vmbus/devices/echo.py``). Payloads come back padded with zeros to a multiple of 8 bytes.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from vmbus.channel import Channel, ChannelHandler
from vmbus.drivers.driver import ChannelOffer, Driver, DriverBus
from vmbus.drivers.errors import DriverError
from vmbus.drivers.promise import Promise
from vmbus.errors import VmbusError
from vmbus.ring import RingPacket
from vmbus.ring.packet import COMPLETION

ECHO_INTERFACE = UUID("6f1c7d1e-94a3-4c1c-9f0e-2b8c0c5d1a10")
RING_PAGES = 16


class EchoDriver(Driver, ChannelHandler):
    """Sends packets and hands back what the device made of them. ``ready`` is settled when the channel is open."""

    interface_ids = (ECHO_INTERFACE,)

    def __init__(self) -> None:
        self.ready: Promise[Channel] = Promise()
        self.exchanged = 0
        self._channel: Channel | None = None
        self._completions: dict[int, Promise[bytes]] = {}
        self._echoes: deque[Promise[bytes]] = deque()
        self._next_transaction = 1

    def attach(self, bus: DriverBus, offer: ChannelOffer) -> None:
        bus.open(offer, RING_PAGES, RING_PAGES).then(self._opened)

    def _opened(self, opened: Promise[Channel]) -> None:
        try:
            channel = self._channel = opened.result()
        except VmbusError as error:
            self.ready.reject(error)
            return
        channel.handler = self
        self.ready.resolve(channel)

    def send(self, payload: bytes, *, completion_requested: bool) -> Promise[bytes]:
        """Send one packet; the promise is of the payload that comes back."""
        if self._channel is None or not self._channel.is_open:
            raise DriverError("the echo device's channel is not open")
        answer: Promise[bytes] = Promise()
        transaction, self._next_transaction = self._next_transaction, self._next_transaction + 1
        self._channel.send_in_band(payload, transaction_id=transaction, completion_requested=completion_requested)
        if completion_requested:
            self._completions[transaction] = answer
        else:
            self._echoes.append(answer)
        return answer

    def on_packets(self, packets: Sequence[RingPacket]) -> None:
        for packet in packets:
            if packet.packet_type == COMPLETION:
                answer = self._completions.pop(packet.transaction_id, None)
            else:
                answer = self._echoes.popleft() if self._echoes else None
            if answer is None:
                raise DriverError(f"a packet came back that was not sent (transaction {packet.transaction_id:#x})")
            self.exchanged += 1
            answer.resolve(packet.payload)

    def on_close(self) -> None:
        failed = None if self._channel is None else self._channel.error
        self._fail(failed or DriverError("the echo device's channel was closed"))

    def detach(self) -> None:
        self._fail(DriverError("the echo device is gone"))

    def _fail(self, error: VmbusError) -> None:
        self.ready.reject(error)
        waiting = [*self._completions.values(), *self._echoes]
        self._completions.clear()
        self._echoes.clear()
        for answer in waiting:
            answer.reject(error)

    def inspect(self) -> dict[str, Any]:
        return {"exchanged": self.exchanged, "outstanding": len(self._completions) + len(self._echoes)}


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoLoad:
    """How many packets, of what sizes, and how many of them under way at once."""

    packets: int = 10_000
    smallest: int = 0
    largest: int = 8000
    window: int = 64
    seed: int = 1


def exchange(bus: DriverBus, driver: EchoDriver, load: EchoLoad, timeout: float = 30.0) -> int:
    """Send random packets, every other one for a completion, and compare each with what comes back.

    Returns the payload bytes sent. Raises :class:`~vmbus.drivers.driver.DriverError` at the first difference, and when
    an answer takes ``timeout`` seconds.
    """
    chance = random.Random(load.seed)
    under_way: deque[tuple[bytes, Promise[bytes]]] = deque()
    total = 0
    for number in range(load.packets):
        payload = chance.randbytes(chance.randint(load.smallest, load.largest))
        total += len(payload)
        under_way.append((payload, driver.send(payload, completion_requested=number % 2 == 1)))
        if len(under_way) >= load.window:
            _compare(bus, *under_way.popleft(), timeout)
    while under_way:
        _compare(bus, *under_way.popleft(), timeout)
    return total


def _compare(bus: DriverBus, sent: bytes, answer: Promise[bytes], timeout: float) -> None:
    received = bus.wait(answer, timeout)
    if received != sent + bytes(-len(sent) % 8):
        raise DriverError(f"a packet of {len(sent)} bytes came back as {len(received)} different ones")
