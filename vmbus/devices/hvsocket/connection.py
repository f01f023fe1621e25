"""One Hyper-V socket: a channel of the guest on one side, a connected Unix socket on the other.

Both directions are streams of their own. The end of one is passed on (a packet of no bytes, ``shutdown``) while the
other goes on; when both have ended, or one side is gone, the connection is. Neither side can make us hold more than a
ring and 64 KiB: while the Unix socket takes nothing the channel is paused, so that the guest's ring fills and the guest
waits; while the guest's ring is full the Unix socket is not read.

Life: made, offered, opened by the guest (:meth:`SocketConnection.open`), relaying, over. A Linux guest's closed socket
waits for the host to rescind the channel (``hvs_close_lock_held``), and what is unread in its ring can be read after
that.

Sources: Linux 6.12 ``net/vmw_vsock/hyperv_transport.c``; openvmm ``vmbus_server/src/hvsock.rs`` (``relay_connected``).
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from uuid import UUID

from vmbus.channel import Channel, ChannelHandler
from vmbus.devices.device import Device, DeviceError, OfferTraits
from vmbus.loop import Loop
from vmbus.ring import RingPacket
from vmbus.ring.packet import IN_BAND
from vmbus.ring.pipe import MAX_PIPE_PAYLOAD, frame, unframe
from vmbus.state_format import State
from vmbus.wire.schema import NIL_GUID

_OVERHEAD = 64
"""More than the bytes of a packet beside its data."""
_READ_AT_ONCE = 1 << 16
"""Bytes; what the ring does not take of them waits in the channel."""
_MOST_PIECES = 64
"""Of one ``sendmsg``."""


class SocketConnection(Device, ChannelHandler):
    """The device that is offered for one connection, and the handler of its only channel.

    Owns ``connection`` (a non-blocking stream socket). ``on_open`` is called when the guest has opened the channel,
    ``on_end`` once, when everything is over, from the loop.
    """

    name = "hvsocket"

    def __init__(
        self,
        connection: socket.socket,
        service_id: UUID,
        endpoint_id: UUID,
        *,
        loop: Loop,
        host_connects: bool,
        on_end: Callable[[SocketConnection], None],
        greeting: bytes = b"",
        received: bytes = b"",
        silo_id: UUID = NIL_GUID,
    ) -> None:
        """``greeting`` goes to the Unix socket as soon as the guest has opened; ``received`` came from it already."""
        self.interface_id = service_id
        self.instance_id = endpoint_id
        self.offer = OfferTraits(hvsocket="connects" if host_connects else "accepts", silo_id=silo_id)
        self.bytes_from_guest = self.bytes_to_guest = 0
        self.is_over = False
        self._loop = loop
        self._socket = connection
        self._on_end = on_end
        self._greeting = greeting
        self._received = received
        self._channel: Channel | None = None
        self._was_opened = False
        self._to_write: deque[memoryview] = deque()
        self._guest_ended = self._host_ended = False
        """No more will come from that side."""
        self._write_is_shut = False
        self._is_watched = False
        self._watched_for = 0
        self._piece = 0
        """Bytes of the stream in one packet: the guest gives room back packet by packet."""

    @property
    def was_opened(self) -> bool:
        """Whether the guest has taken the connection."""
        return self._was_opened

    # The channel

    def open(self, channel: Channel) -> ChannelHandler:
        if self._was_opened or self.is_over:
            raise DeviceError("a socket's channel is opened once")
        self._was_opened = True
        self._channel = channel
        self._piece = min(MAX_PIPE_PAYLOAD, channel.outgoing.memory.size // 4 - _OVERHEAD)
        if self._greeting:
            self._to_write.append(memoryview(self._greeting))
        if self._received:
            self._send(memoryview(self._received))
        self._loop.call_soon(self._write)
        return self

    def on_packets(self, packets: Sequence[RingPacket]) -> None:
        for packet in packets:
            data = unframe(packet)
            if self._guest_ended:
                continue
            if data:
                self.bytes_from_guest += len(data)
                self._to_write.append(memoryview(data))
            else:
                self._guest_ended = True
        self._write()

    def on_writable(self) -> None:
        self._watch()

    def on_close(self) -> None:
        """The guest has let go of the channel, or is gone: what it sent is still delivered."""
        self._channel = None
        self._guest_ended = self._host_ended = True
        self._loop.call_soon(self._write)

    def _send(self, data: memoryview) -> None:
        assert self._channel is not None
        for start in range(0, len(data), self._piece):
            self._channel.send(IN_BAND, _packet(data[start : start + self._piece]))
        self.bytes_to_guest += len(data)

    def _end_to_guest(self) -> None:
        """Nothing more comes from the Unix socket."""
        if not self._host_ended and self._channel is not None:
            self._channel.send(IN_BAND, _packet(b""))
        self._host_ended = True

    # The Unix socket

    def _ready(self) -> None:
        watched = self._watched_for
        if watched & select.EPOLLOUT:
            self._write()
        if watched & select.EPOLLIN and not self._host_ended and not self.is_over:
            self._read()
        if not watched and self._has_hung_up():
            self._abort()  # nobody will read what the guest may still send

    def _has_hung_up(self) -> bool:
        """Whether the other end of the Unix socket is closed; an event may be older than what we watch for now."""
        poll = select.poll()
        poll.register(self._socket, 0)
        return bool(poll.poll(0))

    def _read(self) -> None:
        channel = self._channel
        assert channel is not None
        try:
            data = self._socket.recv(_READ_AT_ONCE)
        except BlockingIOError:
            return
        except OSError:
            self._abort()
            return
        if data:
            self._send(memoryview(data))
        else:
            self._end_to_guest()
        channel.flush()
        self._watch()

    def _write(self) -> None:
        """Write what the guest sent as far as the socket takes it; the guest waits for the rest."""
        if self.is_over:
            return
        waiting = self._to_write
        try:
            while waiting:
                sent = self._socket.sendmsg(list(waiting)[:_MOST_PIECES], (), socket.MSG_NOSIGNAL)
                while waiting and sent >= len(waiting[0]):
                    sent -= len(waiting.popleft())
                if sent:
                    waiting[0] = waiting[0][sent:]
        except BlockingIOError:
            pass
        except OSError:
            self._abort()
            return
        if self._channel is not None:
            if waiting:
                self._channel.pause()
            else:
                self._channel.resume()
        if not waiting and self._guest_ended and not self._write_is_shut:
            self._write_is_shut = True
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:
                self._abort()
                return
        self._watch()

    def _watch(self) -> None:
        """Watch the socket for what can go on; end when nothing can."""
        if self.is_over:
            return
        if self._write_is_shut and self._host_ended:
            self._end()
            return
        wanted = select.EPOLLOUT if self._to_write else 0
        channel = self._channel
        reads = channel is not None and not self._host_ended and not channel.backlog
        if reads:
            wanted |= select.EPOLLIN
        # A hang-up is reported whatever is watched: only who is done with reading may look for nothing else.
        if wanted or (self._host_ended and channel is not None):
            if self._is_watched:
                self._loop.rewatch(self._socket.fileno(), wanted)
            else:
                self._loop.watch(self._socket.fileno(), self._ready, events=wanted)
            self._is_watched = True
        elif self._is_watched:
            self._loop.unwatch(self._socket.fileno())
            self._is_watched = False
        self._watched_for = wanted

    # The end

    def _abort(self) -> None:
        """The Unix socket is gone: the guest reads to the end of what it was sent, and can send no more."""
        self._to_write.clear()
        self._end_to_guest()
        if self._channel is not None:
            self._channel.resume()
        self._guest_ended = True
        self._end()

    def _end(self) -> None:
        if self.is_over:
            return
        self.is_over = True
        if self._is_watched:
            self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        self._on_end(self)

    def give_up(self) -> None:
        """The guest did not take the connection, or it is gone before that."""
        self._end()

    def has_settled(self, channel: Channel) -> bool:
        """What is in the guest's ring can be read after the rescind; only what is not there yet is waited for."""
        return not channel.backlog

    def inspect(self) -> State:
        return {
            "opened": self._was_opened,
            "bytes_from_guest": self.bytes_from_guest,
            "bytes_to_guest": self.bytes_to_guest,
            "guest_ended": self._guest_ended,
            "host_ended": self._host_ended,
            "waiting_for_the_socket": sum(map(len, self._to_write)),
        }

    def close(self) -> None:
        self._to_write.clear()
        self._end()


def _packet(data: memoryview | bytes) -> bytes:
    """The payload of a ring packet that carries a piece of the stream, or its end."""
    return bytes(frame(data)[4])
