"""What a host did in a capture, arranged by what it follows from: the part that ``HostPlayer`` plays.

Most of what a host says answers something: a response to a control message, a completion with the request's transaction
id.  The rest it says of its own accord: offers, rescinds, frames that came in, heartbeats.  Of those the capture tells
how far the guest had got, and how long the host then waited.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from dissectors.engine import Decoded
from dissectors.engine.dialect import COMPLETION, Dialect
from dissectors.engine.dialects.control import message_type, parse_body
from dissectors.engine.dialects.network import REQUESTS, Network
from dissectors.engine.dialects.storage import Storage
from dissectors.replay.plan import GUEST, ReplayFailed, section_size
from vmbus.wire import control as c
from vmbus.wire import nvsp, vstor
from vmbus.wire.capture import RecordKind
from vmbus.wire.control_values import MessageType
from vmbus.wire.offer import OfferChannel, OfferChannelPre7
from vmbus.wire.ring import PacketType
from vmbus.wire.rndis import RndisMessageType
from vmbus.wire.schema import Format, WireError

OUTSIDE = 160
"""Bytes that reach over an RNDIS header to what says which protocol a frame carries."""
_RNDIS = struct.Struct("<IIII")
_MESSAGE, _PACKET, _EXTERNAL = int(RecordKind.MESSAGE), int(RecordKind.PACKET), int(RecordKind.EXTERNAL)


@dataclass
class Said:
    """One message or packet of the host."""

    item: Decoded
    pause_ns: int
    """Since what it answers; of what it said of its own accord, since the guest or the host last did something."""
    follows: Request | None = None
    """Of what it said of its own accord: what the guest had done last."""
    data: list[Decoded] = field(default_factory=list)
    """External data that came with it."""

    @property
    def is_cut(self) -> bool:
        """Whether some of the data was not recorded."""
        return bool(self.data) and sum(len(piece.data) - piece.body_at for piece in self.data) < self.data[0].data_total


@dataclass
class Request:
    """One message or packet of the guest, and the host's answers to it."""

    item: Decoded
    answers: list[Said] = field(default_factory=list)
    outside: bytes = b""
    """The first bytes of the data that a packet points at, ``OUTSIDE`` at most."""
    is_done: bool = False
    """Whether the live guest has done it by now."""


@dataclass
class ChannelScript:
    """What crossed a channel from one opening of it to the next."""

    name: str = ""
    dialect: Dialect = field(default_factory=Dialect)
    requests: list[Request] = field(default_factory=list)
    unasked: list[Said] = field(default_factory=list)
    section_size: int = 0
    """Bytes of a section of a network card's send buffer."""


@dataclass
class HostScript:
    """Everything that a host's replay needs of a capture."""

    messages: list[Request] = field(default_factory=list)
    unasked: list[Said] = field(default_factory=list)
    openings: dict[int, list[ChannelScript]] = field(default_factory=dict)
    """By channel id, in order."""
    incomplete: int = 0
    """Answers of which data is missing: it was recorded with too small a snap length."""


def plan_host(items: Iterable[Decoded]) -> HostScript:
    """Go through a capture once and note what the host did.  Raises ``ReplayFailed`` if it did nothing."""
    planner = _Planner()
    for item in items:
        if item.notes:
            continue
        if item.kind == _MESSAGE:
            planner.message(item)
        elif item.kind == _PACKET:
            planner.packet(item)
        elif item.kind == _EXTERNAL:
            planner.external(item)
    script = planner.script
    if not script.messages or not (script.unasked or any(request.answers for request in script.messages)):
        raise ReplayFailed("the capture does not hold what a host answered a guest")
    return script


class _Planner:
    def __init__(self) -> None:
        self.script = HostScript()
        self._waiting: dict[Hashable, deque[Request]] = {}
        self._requests: dict[int, Request] = {}
        """Packets of the guest by the identity of their record."""
        self._data: dict[tuple[int, int], list[Decoded]] = {}
        """The host's data by channel and transaction id, until its packet comes."""
        self._last_request: Request | None = None
        self._last_time = 0
        self._last_time_on: dict[int, int] = {}

    def message(self, item: Decoded) -> None:
        body = parse_body(item)
        if body is None:
            return
        if item.direction == GUEST:
            request = Request(item)
            self.script.messages.append(request)
            self._last_request = request
            if (key := _awaits(body)) is not None:
                self._waiting.setdefault(key, deque()).append(request)
            if isinstance(body, (c.OpenChannel, c.OpenReservedChannel)):
                self.script.openings.setdefault(body.channel_id, []).append(ChannelScript(item.channel_name))
                self._last_time_on.pop(body.channel_id, None)
        elif waiting := self._waiting.get(_answers(body)):
            request = waiting.popleft()
            request.answers.append(Said(item, item.time_ns - request.item.time_ns))
        else:
            pause = item.time_ns - (self._last_time or item.time_ns)
            self.script.unasked.append(Said(item, pause, self._last_request))
        self._last_time = item.time_ns

    def packet(self, item: Decoded) -> None:
        opening = self._opening(item)
        last = self._last_time_on.get(item.channel_id, item.time_ns)
        if item.direction == GUEST:
            request = Request(item)
            self._requests[id(item)] = request
            opening.requests.append(request)
            self._last_request, self._last_time = request, item.time_ns
        else:
            data = self._data.pop((item.channel_id, item.transaction_id), [])
            asked = self._requests.pop(id(item.request), None) if item.request is not None else None
            if asked is not None:
                said = Said(item, item.time_ns - asked.item.time_ns, data=data)
                asked.answers.append(said)
                opening.section_size = section_size(item) or opening.section_size
                self.script.incomplete += said.is_cut or (not data and _lacks_data(asked.item, item))
                return
            said = Said(item, item.time_ns - last, opening.requests[-1] if opening.requests else None, data)
            opening.unasked.append(said)
            self.script.incomplete += said.is_cut
        self._last_time_on[item.channel_id] = item.time_ns

    def external(self, item: Decoded) -> None:
        request = item.request
        if item.direction != GUEST:
            self._data.setdefault((item.channel_id, item.transaction_id), []).append(item)
        elif request is not None and (known := self._requests.get(id(request))) is not None and not known.outside:
            known.outside = bytes(item.data[item.body_at : item.body_at + OUTSIDE])

    def _opening(self, item: Decoded) -> ChannelScript:
        openings = self.script.openings.setdefault(item.channel_id, [])
        if not openings:
            openings.append(ChannelScript())
        opening = openings[-1]
        opening.name, opening.dialect = item.channel_name, item.dialect
        return opening


def _awaits(body: Format) -> Hashable:
    """What the answer to a guest's message is found by; None if it gets none."""
    match body:
        case c.InitiateContact() | c.InitiateContact5():
            return MessageType.VERSION_RESPONSE
        case c.GpadlHeader():
            return MessageType.GPADL_CREATED, body.gpadl_id
        case c.GpadlTeardown():
            return MessageType.GPADL_TORNDOWN, body.gpadl_id
        case c.OpenChannel() | c.OpenReservedChannel():
            return MessageType.OPEN_CHANNEL_RESULT, body.channel_id
        case c.CloseReservedChannel():
            return MessageType.CLOSE_RESERVED_RESPONSE, body.channel_id
        case c.ModifyChannel():
            return MessageType.MODIFY_CHANNEL_RESPONSE, body.channel_id
        case c.ModifyConnection():
            return MessageType.MODIFY_CONNECTION_RESPONSE
        case c.TlConnectRequest():
            return MessageType.TL_CONNECT_RESULT, body.endpoint_id
        case c.Unload():
            return MessageType.UNLOAD_COMPLETE
        case c.Pause():
            return MessageType.PAUSE_RESPONSE
    return None


def _answers(body: Format) -> Hashable:
    """The same of a host's message: what it may be the answer to."""
    match body:
        case c.VersionResponse():
            return MessageType.VERSION_RESPONSE
        case c.GpadlCreated():
            return MessageType.GPADL_CREATED, body.gpadl_id
        case c.GpadlTorndown():
            return MessageType.GPADL_TORNDOWN, body.gpadl_id
        case c.OpenResult():
            return MessageType.OPEN_CHANNEL_RESULT, body.channel_id
        case c.CloseReservedResponse():
            return MessageType.CLOSE_RESERVED_RESPONSE, body.channel_id
        case c.ModifyChannelResponse():
            return MessageType.MODIFY_CHANNEL_RESPONSE, body.channel_id
        case c.ModifyConnectionResponse():
            return MessageType.MODIFY_CONNECTION_RESPONSE
        case c.TlConnectResult():
            return MessageType.TL_CONNECT_RESULT, body.endpoint_id
        case OfferChannel() | OfferChannelPre7():  # a socket that the guest asked for is answered by its offer
            return MessageType.TL_CONNECT_RESULT, body.instance_id
        case c.UnloadComplete():
            return MessageType.UNLOAD_COMPLETE
        case c.PauseResponse():
            return MessageType.PAUSE_RESPONSE
    return None


def message_identity(item: Decoded, body: Format) -> Hashable:
    """What must be the same for a message to be the one that was recorded: its kind, and whom it is about."""
    match body:
        case c.InitiateContact() | c.InitiateContact5():
            subject: Hashable = int(body.version)
        case c.TlConnectRequest():
            subject = body.service_id
        case _:
            subject = getattr(body, "channel_id", 0)
    return message_type(item), subject


def packet_identity(item: Decoded, dialect: Dialect, outside: bytes) -> Hashable:
    """What must be the same for a packet to be the one that was recorded.

    Of a disk's requests every byte.  Of a network card's the kind of the messages, and the object that is asked for or
    what a frame carries: a frame is never the same twice.  Of others the packet's type and length; of completions,
    what they complete.
    """
    if item.packet_type == COMPLETION:
        return COMPLETION, item.transaction_id
    payload = bytes(item.data[item.payload_at :])
    if isinstance(dialect, Storage):
        return item.packet_type, payload
    if not isinstance(dialect, Network):
        return item.packet_type, len(payload)
    number = int.from_bytes(payload[:4], "little")
    if number != nvsp.NvspMessageType.SEND_RNDIS_PACKET:
        return item.packet_type, number
    kind, _, offset, subject = _RNDIS.unpack(outside[:16].ljust(16, b"\0"))
    if kind == RndisMessageType.PACKET:
        frame = 8 + offset
        return number, kind, outside[frame + 12 : frame + 14], outside[frame + 23 : frame + 24]
    return number, kind, subject if kind in REQUESTS else 0


def _lacks_data(request: Decoded, completion: Decoded) -> bool:
    """Whether a command moved data to the guest, and none of it was recorded."""
    if not isinstance(request.dialect, Storage) or request.packet_type != PacketType.GPA_DIRECT:
        return False
    try:
        asked = vstor.VstorRequest.parse(request.data, request.payload_at).body
        done = vstor.ScsiCompletion.parse(completion.data, completion.payload_at).result
    except WireError:
        return False
    is_read = isinstance(asked, vstor.ScsiRequest) and asked.direction == vstor.DataDirection.IN
    return is_read and done.data_length > 0 and done.srb_status == vstor.SrbStatus.SUCCESS
