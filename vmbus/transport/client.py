"""A Python guest's end of the partition protocol: synic operations to a host in another process.

Requests block until the host answers, as hypercalls do; signals are posted.  Everything that the host says by itself
comes through guest memory and the interrupts, eventfds here.
"""

from __future__ import annotations

import os
import socket
from uuid import UUID

from vmbus.errors import VmbusError
from vmbus.memory import GuestMemory
from vmbus.transport.frames import Frame, FrameReader, build_frame
from vmbus.wire.partition import (
    REPLY,
    FrameStatus,
    GetRegister,
    Hello,
    HelloReply,
    Note,
    NoteKind,
    Operation,
    PartitionFeatures,
    PostMessage,
    PostMessageReply,
    RegisterValue,
    SetRegister,
    SignalEvent,
)
from vmbus.wire.schema import Format

REPLY_TIMEOUT = 30.0
"""Seconds to wait for a host's answer."""


class HostGone(VmbusError):
    """The host closed the connection or does not answer."""


class HostRefused(VmbusError):
    """The host did not accept this guest."""


class HostConnection:
    """The connection of one guest; used by one thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.settimeout(REPLY_TIMEOUT)
        self._frames = FrameReader()
        self._sequence = 0
        self.features = PartitionFeatures(0)

    def fileno(self) -> int:
        """Readable outside a request only when the host is gone."""
        return self._socket.fileno()

    def hello(
        self,
        memory: GuestMemory,
        interrupts: list[int],
        guest_id: UUID,
        features: PartitionFeatures = PartitionFeatures(0),  # noqa: B008 - it is a constant
    ) -> None:
        """Introduce this guest: its memory and one eventfd per virtual processor.  Raises ``HostRefused``."""
        hello = Hello(memory_size=memory.size, vp_count=len(interrupts), guest_id=guest_id, features=features)
        self._sequence += 1
        frame = build_frame(Operation.HELLO, hello, sequence=self._sequence)
        try:
            socket.send_fds(self._socket, [frame], [memory.fd, *interrupts])
        except OSError as error:
            raise HostGone(f"the host closed the connection: {error.strerror}") from None
        answer = self._answer(Operation.HELLO)
        if answer.status != FrameStatus.OK:
            raise HostRefused(
                f"the host refused this guest: {FrameStatus(answer.status).name.lower().replace('_', ' ')}"
            )
        self.features = HelloReply.parse(answer.body).features

    def set_register(self, vp: int, number: int, value: int) -> None:
        """Write a synthetic register of a processor."""
        self._post(Operation.SET_REGISTER, SetRegister(number=number, value=value), vp)

    def get_register(self, vp: int, number: int) -> int:
        """Read a synthetic register of a processor."""
        return RegisterValue.parse(self._request(Operation.GET_REGISTER, GetRegister(number=number), vp)).value

    def post_message(self, vp: int, connection_id: int, message_type: int, payload: bytes) -> int:
        """HvCallPostMessage; returns its HV status."""
        message = PostMessage(
            connection_id=connection_id, message_type=message_type, payload_size=len(payload), payload=payload
        )
        return PostMessageReply.parse(self._request(Operation.POST_MESSAGE, message, vp)).hv_status

    def signal_event(self, vp: int, connection_id: int, flag: int = 0) -> None:
        """HvCallSignalEvent."""
        self._post(Operation.SIGNAL_EVENT, SignalEvent(connection_id=connection_id, flag_number=flag), vp)

    def note(self, text: str, kind: NoteKind = NoteKind.KERNEL_LOG) -> None:
        """A line for whoever watches this guest."""
        self._post(Operation.NOTE, Note(kind=kind, text=text.encode()[:2048]), 0)

    def host_is_gone(self) -> bool:
        """Whether the socket, readable outside a request, says that the host has gone."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self._socket.close()

    def _post(self, operation: Operation, body: Format, vp: int) -> None:
        self._send(build_frame(operation, body, vp=vp))

    def _request(self, operation: Operation, body: Format, vp: int) -> bytes:
        self._sequence += 1
        self._send(build_frame(operation, body, vp=vp, sequence=self._sequence))
        return self._answer(operation).body

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise HostGone(f"the host closed the connection: {error.strerror or 'it does not read'}") from None

    def _answer(self, operation: Operation) -> Frame:
        while True:
            try:
                data = self._socket.recv(65536)
            except OSError as error:
                raise HostGone(f"the host does not answer: {error.strerror or 'time is up'}") from None
            if not data:
                raise HostGone("the host closed the connection")
            for frame in self._frames.feed(data):
                if frame.operation == operation | REPLY and frame.sequence == self._sequence:
                    return frame


def new_interrupts(vp_count: int) -> list[int]:
    """One eventfd per virtual processor; the caller's to close."""
    return [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(vp_count)]
