"""The host's end of one guest's connection: frames in, calls on a ``PartitionHost`` out.

The guest is not trusted: a frame that makes no sense, a body of the wrong size, a processor that does not exist or a
guest that does not read its replies ends the connection with one reason, and nothing else.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from typing import Protocol

from vmbus.errors import VmbusError
from vmbus.loop import Loop, is_readable
from vmbus.transport.frames import Frame, FrameError, FrameReader, build_frame
from vmbus.wire.partition import (
    MAGIC,
    REPLY,
    VERSION_MAJOR,
    FrameStatus,
    GetRegister,
    Hello,
    HelloReply,
    Note,
    Operation,
    PostMessage,
    PostMessageReply,
    RegisterValue,
    SetRegister,
    SignalEvent,
)

HELLO_SECONDS = 5.0
"""Who has connected and does not say hello for so long is no guest."""
MAX_VPS = 64
MOST_DESCRIPTORS = 1 + MAX_VPS
"""A hello comes with its memory and what interrupts each processor, an eventfd or a pipe."""
MAX_PAYLOAD = 240
"""Bytes of a hypervisor message's payload (TLFS, HV_MESSAGE_PAYLOAD_BYTE_COUNT)."""

_SIGNAL = struct.Struct("<IHH")
_RECEIVE_SIZE = 65536


class HelloRefused(VmbusError):
    """The host does not take this guest; ``status`` says why in the protocol's words."""

    def __init__(self, status: FrameStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class PartitionHost(Protocol):
    """What carries a guest's operations out."""

    def hello(self, hello: Hello, descriptors: Sequence[int]) -> HelloReply:
        """The guest introduces itself; ``descriptors`` are the memory's and one per processor, its interrupt.

        They are closed when this returns: what is kept must be duplicated.

        Raises ``HelloRefused``.
        """
        ...

    def set_register(self, vp: int, number: int, value: int) -> None: ...

    def get_register(self, vp: int, number: int) -> int: ...

    def post_message(self, vp: int, connection_id: int, message_type: int, payload: bytes, sequence: int) -> int:
        """Returns an HV status."""
        ...

    def signal_event(self, vp: int, connection_id: int, flag: int) -> None: ...

    def note(self, kind: int, text: str) -> None: ...

    def disconnected(self, reason: str) -> None:
        """The connection has ended; ``reason`` is one line."""
        ...


class Reception(Protocol):
    """Where connections come in.  Who has connected takes a guest's place with the hello, and not before."""

    def admit(self, connection: GuestConnection) -> PartitionHost:
        """A hello has come: what carries this guest's operations out.  Raises ``HelloRefused``."""
        ...

    def turned_away(self, connection: GuestConnection, reason: str) -> None:
        """A connection has ended that was not admitted; ``reason`` is one line."""
        ...


class GuestConnection:
    """One accepted socket.  Owns it, and every descriptor that came with it until the hello was accepted."""

    def __init__(self, connection: socket.socket, loop: Loop, reception: Reception) -> None:
        self._socket = connection
        self._loop = loop
        self._reception = reception
        self._host: PartitionHost | None = None
        self._patience = loop.call_later(HELLO_SECONDS, self._out_of_patience)
        self._frames = FrameReader()
        self._descriptors: list[int] = []
        self._vp_count = 0
        self.is_open = True
        connection.setblocking(False)
        loop.watch(connection.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            if self._vp_count:
                data = self._socket.recv(_RECEIVE_SIZE)
            else:
                data, descriptors, _, _ = socket.recv_fds(self._socket, _RECEIVE_SIZE, MOST_DESCRIPTORS)
                self._descriptors += descriptors
        except BlockingIOError:
            return
        except OSError as error:
            self.close(f"the guest's socket failed: {error.strerror}")
            return
        if not data:
            self.close("the guest closed its connection")
            return
        try:
            for frame in self._frames.feed(data):
                if not self.is_open:
                    return
                self._handle(frame)
        except VmbusError as error:
            self.close(str(error))
            return
        if self._descriptors:
            self.close("descriptors came without a whole hello")

    def catch_up(self, rounds: int = 64) -> None:
        """Read what has arrived: if that is the end of the stream, the connection is closed when this returns."""
        for _ in range(rounds):
            if not self.is_open or not is_readable(self._socket):
                return
            self._readable()

    def _out_of_patience(self) -> None:
        self.close(f"who connected said no hello in {HELLO_SECONDS:.0f} s")

    def _handle(self, frame: Frame) -> None:
        operation, host = frame.operation, self._host
        if host is None:
            if operation != Operation.HELLO:
                raise FrameError(f"the guest's first frame is operation {operation}, not a hello")
            self._hello(frame)
            return
        vp = frame.vp
        if vp >= self._vp_count:
            raise FrameError(f"operation {operation} from processor {vp} of {self._vp_count}")
        if operation == Operation.SIGNAL_EVENT:
            if len(frame.body) < SignalEvent.SIZE:
                raise FrameError("a signal cut short")
            connection_id, flag, _ = _SIGNAL.unpack_from(frame.body)
            host.signal_event(vp, connection_id, flag)
        elif operation == Operation.POST_MESSAGE:
            message = PostMessage.parse(frame.body)
            if message.payload_size > MAX_PAYLOAD or message.payload_size != len(message.payload):
                raise FrameError(
                    f"a message of {message.payload_size} bytes in a frame with {len(message.payload)} (at most 240)"
                )
            status = host.post_message(vp, message.connection_id, message.message_type, message.payload, frame.sequence)
            self._reply(frame, PostMessageReply(hv_status=status).build())
        elif operation == Operation.SET_REGISTER:
            register = SetRegister.parse(frame.body)
            host.set_register(vp, register.number, register.value)
        elif operation == Operation.GET_REGISTER:
            value = host.get_register(vp, GetRegister.parse(frame.body).number)
            self._reply(frame, RegisterValue(value=value).build())
        elif operation == Operation.NOTE:
            note = Note.parse(frame.body)
            host.note(int(note.kind), note.text.decode("utf-8", "replace").rstrip("\0\n"))
        else:
            raise FrameError(f"operation {operation} does not exist")

    def _hello(self, frame: Frame) -> None:
        descriptors, self._descriptors = self._descriptors, []
        try:
            hello = Hello.parse(frame.body)
            if hello.magic != MAGIC:
                raise HelloRefused(FrameStatus.MALFORMED, "the guest's hello does not begin with VMBP")
            if hello.major != VERSION_MAJOR:
                raise HelloRefused(
                    FrameStatus.VERSION_NOT_SUPPORTED,
                    f"the guest speaks partition protocol {hello.major}.{hello.minor}, we speak {VERSION_MAJOR}",
                )
            if not 0 < hello.vp_count <= MAX_VPS or len(descriptors) != 1 + hello.vp_count:
                raise HelloRefused(
                    FrameStatus.MALFORMED,
                    f"a hello for {hello.vp_count} processors came with {len(descriptors)} descriptors",
                )
            self._host = self._reception.admit(self)
            self._patience.cancel()
            reply = self._host.hello(hello, descriptors)
        except HelloRefused as refusal:
            self._reply(frame, HelloReply().build(), refusal.status)
            self.close(f"guest refused: {refusal}")
            return
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._vp_count = hello.vp_count
        self._reply(frame, reply.build())

    def _reply(self, frame: Frame, body: bytes, status: FrameStatus = FrameStatus.OK) -> None:
        data = build_frame(frame.operation | REPLY, body, vp=frame.vp, sequence=frame.sequence, status=status)
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise FrameError(f"the guest's socket failed: {error.strerror}") from None
        if sent != len(data):
            raise FrameError("the guest does not read its replies")

    def close(self, reason: str = "the host closed the connection") -> None:
        """End the connection; the host hears why, once."""
        if not self.is_open:
            return
        self.is_open = False
        self._patience.cancel()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        if self._host is not None:
            self._host.disconnected(reason)
        else:
            self._reception.turned_away(self, reason)
