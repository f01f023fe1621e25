"""A host with a vsock relay and a Python guest with sockets, joined in one process: for tests of streams."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vmbus.devices.hvsocket import VsockRelay
from vmbus.drivers.hvsocket import GuestSockets, GuestStream
from vmbus.testing.partitions import PartitionPair

T = TypeVar("T")


@dataclass
class VsockPair:
    """``path`` is the relay's; ``sockets`` are the guest's."""

    pair: PartitionPair
    relay: VsockRelay
    sockets: GuestSockets
    path: Path

    def listen(self, port: int, backlog: int = 16) -> socket.socket:
        """Be the host's service for the guest's connections to ``port``."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{self.path}_{port}")
        listener.listen(backlog)
        listener.settimeout(60)
        return listener

    def connect(self, port: int | str) -> socket.socket:
        """Ask for a port of the guest; nothing is read yet."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        connection.connect(str(self.path))
        connection.sendall(f"CONNECT {port}\n".encode())
        return connection

    def guest_connects(self, port: int) -> GuestStream:
        return self.sockets.connect(self.pair.guest.bus, port)

    def accepted(self, port: int) -> GuestStream:
        """The next connection that the guest accepts."""
        waiting = self.sockets.accepted[port]
        assert self.pair.guest.loop.run(lambda: bool(waiting), timeout=60)
        return waiting.popleft()

    def run_guest(self, stream: GuestStream, size: int | None = None) -> bytes:
        """Let the guest work until the stream has so many bytes, or has ended; what it received."""
        assert self.pair.guest.loop.run(
            lambda: stream.ended if size is None else len(stream.received) >= size, timeout=60
        )
        return bytes(stream.received)

    def beside(self, work: Callable[[], T]) -> T:
        """Do something that blocks in a thread, and let the guest work meanwhile."""
        loop, finished = self.pair.guest.loop, Future[T]()

        def run() -> None:
            try:
                finished.set_result(work())
            except BaseException as error:
                finished.set_exception(error)
            loop.call_soon_threadsafe(lambda: None)

        threading.Thread(target=run, daemon=True).start()
        loop.run(finished.done, timeout=60)
        return finished.result(timeout=0)

    def settled(self) -> bool:
        """Whether nothing of a connection is left, at either end."""

        def left() -> tuple[int, int]:
            return len(self.relay.connections), len(self.pair.host.slots)

        return self.pair.guest.loop.run(lambda: self.pair.in_host(left) == (0, 0), timeout=60)


@contextmanager
def vsock_pair(path: Path) -> Iterator[VsockPair]:
    """A booted guest and a relay at ``path``; everything is closed at the end."""
    sockets = GuestSockets()
    pair = PartitionPair([], [sockets.driver]).start()

    def start() -> VsockRelay:
        relay = VsockRelay(pair.host, path)
        pair.host.sockets = relay
        return relay

    relay = pair.in_host(start)
    try:
        pair.new_guest().boot()
        yield VsockPair(pair, relay, sockets, path)
        pair.in_host(relay.close)
    finally:
        pair.close()
