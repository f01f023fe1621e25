"""Makes the connections between AF_VSOCK of the guest and Unix sockets here, as many as there is need for.

*From the guest*: it asks for a service (TL_CONNECT_REQUEST). We connect to the Unix socket that stands for it first, so
that a service which nobody offers is refused at once, and then offer the channel that the guest opens. (Linux has no
handler for the refusal, ``channel_message_table`` in ``channel_mgmt.c``: its connect() times out after two seconds.)

*To the guest*: somebody connects to PATH and says which port. We offer a channel; a guest that listens opens it, and
one that does not is silent, so patience is all that tells.

Source: openvmm ``vmbus_server/src/hvsock.rs``, whose limits of patience these are.
"""

from __future__ import annotations

import errno
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from uuid import UUID, uuid4

from vmbus.devices.device import Device
from vmbus.devices.hvsocket.connection import SocketConnection
from vmbus.devices.hvsocket.hybrid import MAX_REQUEST, BadConnectRequest, listener_paths, parse_connect
from vmbus.errors import VmbusError
from vmbus.loop import Loop, Timer
from vmbus.transport.address import Address
from vmbus.transport.listening import Listener

OPEN_SECONDS = 5.0
"""So long may the guest take to open the channel that it asked for."""
ACCEPT_SECONDS = 2.0
"""So long may the guest take to accept our connection."""
REQUEST_SECONDS = 10.0
"""So long may somebody take to say which port it wants."""
BUSY_SECONDS = 5.0
"""So long is a listener asked again whose queue is full."""
ASK_AGAIN_SECONDS = 0.01
MAX_REQUESTS = 16
"""So many of the guest's requests are carried out at one time; the others wait (openvmm, whose number this is, hears
nothing at all from a guest that has so many under way: ``MAX_CONCURRENT_HVSOCK_REQUESTS``)."""
BACKLOG = 256
MAX_CONNECTIONS = 1024
"""At one time, those that somebody asks for and those that the guest waits for included."""


class Bus(Protocol):
    """What the relay needs of its host (``vmbus.host.Host``)."""

    @property
    def loop(self) -> Loop: ...

    @property
    def has_guest(self) -> bool: ...

    def plug(self, device: Device) -> Any: ...

    def unplug(self, slot: Any) -> None: ...

    def note(self, text: str) -> None: ...


class VsockRelay:
    """Listens at ``path`` for connections to the guest, and makes the guest's to ``path_PORT``.

    Belongs to the loop's thread.  Raises ``AddressError`` if it cannot listen there.
    """

    def __init__(self, host: Bus, path: Path) -> None:
        self._host = host
        self._path = path
        self._slots: dict[SocketConnection, Any] = {}
        self._asking: set[_Asking] = set()
        self._wishes: deque[_Wish] = deque()
        self._next_turn: Timer | None = None
        self._listener = Listener(host.loop, Address("unix", str(path)), self._take, backlog=BACKLOG)

    @property
    def connections(self) -> list[SocketConnection]:
        """Those that are offered, relayed or coming to their end."""
        return list(self._slots)

    @property
    def _is_full(self) -> bool:
        return len(self._asking) + len(self._wishes) + len(self._slots) >= MAX_CONNECTIONS

    # To the guest

    def _take(self, connection: socket.socket) -> None:
        if self._is_full or not self._host.has_guest:
            connection.close()
            return
        self._asking.add(_Asking(self, connection, self._host.loop))

    def asked(self, asking: _Asking, line: bytes, received: bytes) -> None:
        """Somebody has said which service of the guest it wants."""
        self._asking.discard(asking)
        try:
            request = parse_connect(line)
        except BadConnectRequest as error:
            self._host.note(f"a vsock connection is refused: {error}")
            asking.connection.close()
            return
        endpoint = uuid4()
        self._offer(
            SocketConnection(
                asking.connection,
                request.service_id,
                endpoint,
                loop=self._host.loop,
                host_connects=True,
                on_end=self._ended,
                greeting=request.accepted(endpoint),
                received=received,
            ),
            ACCEPT_SECONDS,
        )

    def dropped(self, asking: _Asking) -> None:
        """It went away, or said nothing for too long."""
        self._asking.discard(asking)
        asking.connection.close()

    # From the guest

    def guest_connects(self, endpoint_id: UUID, service_id: UUID, silo_id: UUID, refuse: Callable[[], None]) -> None:
        """Connect to whoever listens for the service, then offer the guest its channel; or ``refuse``."""
        wish = _Wish(endpoint_id, service_id, silo_id, refuse, time.monotonic() + BUSY_SECONDS)
        if self._is_full:
            refuse()
        elif len(self._wishes) >= MAX_REQUESTS or not self._settle(wish):
            self._wishes.append(wish)
            self._ask_again_later()

    def _ask_again_later(self) -> None:
        if self._wishes and self._next_turn is None:
            self._next_turn = self._host.loop.call_later(ASK_AGAIN_SECONDS, self._ask_again)

    def _ask_again(self) -> None:
        """Carry out what waits, in turn: whose listener is still busy waits behind the others."""
        self._next_turn = None
        turn = [self._wishes.popleft() for _ in range(min(len(self._wishes), MAX_REQUESTS))]
        self._wishes.extend(wish for wish in turn if not self._settle(wish))
        self._ask_again_later()

    def _settle(self, wish: _Wish) -> bool:
        """Connect and offer the channel, or refuse; False if neither can be done yet."""
        try:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError:  # the table of descriptors is full
            wish.refuse()
            return True
        problem = self._connect(connection, wish.service_id)
        if problem == 0:
            device = SocketConnection(
                connection,
                wish.service_id,
                wish.endpoint_id,
                loop=self._host.loop,
                host_connects=False,
                on_end=self._ended,
                silo_id=wish.silo_id,
            )
            if not self._offer(device, OPEN_SECONDS):
                wish.refuse()
            return True
        connection.close()
        if problem == errno.EAGAIN and time.monotonic() < wish.deadline:
            return False
        wish.refuse()
        return True

    def _connect(self, connection: socket.socket, service_id: UUID) -> int:
        """Connect to the first listener there is; 0, or the number of what went wrong."""
        problem = errno.ENOENT
        for path in listener_paths(str(self._path), service_id):
            try:
                problem = connection.connect_ex(path)
            except OSError as error:  # the path is too long for a Unix socket
                problem = error.errno or errno.EINVAL
            if problem != errno.ENOENT:
                break
        return problem

    # Connections

    def _offer(self, device: SocketConnection, patience: float) -> bool:
        try:
            self._slots[device] = self._host.plug(device)
        except VmbusError as error:
            self._host.note(f"a vsock connection is refused: {error}")
            device.give_up()
            return False

        def opened_in_time() -> None:
            if not device.was_opened:
                device.give_up()

        self._host.loop.call_later(patience, opened_in_time)
        return True

    def _ended(self, device: SocketConnection) -> None:
        # Not at once: the end may have come in the middle of what the host does with the channel.
        self._host.loop.call_soon(lambda: self._unplug(device))

    def _unplug(self, device: SocketConnection) -> None:
        slot = self._slots.pop(device, None)
        if slot is not None:
            self._host.unplug(slot)

    def guest_left(self) -> None:
        """Every connection ends with the guest; the next guest is not offered them."""
        for device in list(self._slots):
            self._unplug(device)
            device.close()
        for asking in list(self._asking):
            asking.close()
        self._wishes.clear()
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None

    def inspect(self) -> dict[str, Any]:
        """Live state for ``vmbus ctl inspect``."""
        return {
            "path": str(self._path),
            "connections": len(self._slots),
            "asking": len(self._asking),
            "guest_waits_for": len(self._wishes),
        }

    def close(self) -> None:
        """Take no more connections, and end those that there are."""
        self._listener.close()
        self.guest_left()


class _Wish(NamedTuple):
    """A connection that the guest has asked for and has not got yet."""

    endpoint_id: UUID
    service_id: UUID
    silo_id: UUID
    refuse: Callable[[], None]
    deadline: float


class _Asking:
    """Somebody who has connected to PATH and has not said yet which port it wants."""

    def __init__(self, relay: VsockRelay, connection: socket.socket, loop: Loop) -> None:
        self.connection = connection
        self._relay = relay
        self._loop = loop
        self._line = b""
        self._patience: Timer = loop.call_later(REQUEST_SECONDS, self.close)
        loop.watch(connection.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            data = self.connection.recv(MAX_REQUEST + 1 - len(self._line))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._line += data
        line, newline, received = self._line.partition(b"\n")
        if newline:
            self._stop_watching()
            self._relay.asked(self, line, received)
        elif not data or len(self._line) > MAX_REQUEST:
            self.close()

    def _stop_watching(self) -> None:
        self._patience.cancel()
        self._loop.unwatch(self.connection.fileno())

    def close(self) -> None:
        self._stop_watching()
        self._relay.dropped(self)
