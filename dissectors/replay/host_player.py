"""Plays the host's side of a capture to a live guest: it listens as a host does, and answers what the host answered.

The guest's messages are found in the recording by their kind and the channel that they are about, in order; what
the guest chooses itself (GPADL ids, open ids, socket endpoints) is put into the answers.  Channel ids are the host's
to choose and stay those of the capture.  ``host_channel`` does the same for packets.  A guest that does something else
than the recorded one is answered as well as can be, and each departure is told in one line.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence

from dissectors.engine import Decoded, Session
from dissectors.engine.dialects.control import HEADER_SIZE, parse_body
from dissectors.replay.answers import readdressed, unrecorded_answer, whole_message
from dissectors.replay.host_channel import ReplayedChannel
from dissectors.replay.pace import Pace, Unasked
from dissectors.replay.results import HostResult
from dissectors.replay.script import ChannelScript, HostScript, Request, Said, message_identity
from vmbus.channel import Channel, ChannelIdentity
from vmbus.errors import VmbusError
from vmbus.gpadl import Gpadl, GpadlAssembler
from vmbus.interrupt import BadInterrupt
from vmbus.loop import Loop
from vmbus.memory import GuestMemory, GuestMemoryError, MemoryInUse
from vmbus.ring.pair import map_ring_pair
from vmbus.synic import SynicVp, make_vps
from vmbus.transport import listen, parse_address
from vmbus.transport.server import GuestConnection, HelloRefused
from vmbus.wire import control as c
from vmbus.wire.capture import Direction, MessageRecord, RecordKind
from vmbus.wire.control_values import NO_MONITOR, SYNIC_MESSAGE_TYPE, VMBUS_SINT, Status
from vmbus.wire.hypervisor import HvStatus
from vmbus.wire.offer import OfferChannel
from vmbus.wire.partition import FrameStatus, Hello, HelloReply
from vmbus.wire.partition import NoteKind as GuestNote
from vmbus.wire.schema import Format

GIVE_UP = 10.0
"""Seconds that a guest may be silent when it waits for an answer that the recording does not have."""
_LOOK = 0.25
_CONTENT_OF_HEADER = HEADER_SIZE + c.GpadlHeader.SIZE
_CONTENT_OF_BODY = HEADER_SIZE + c.GpadlBody.SIZE


class HostPlayer:
    """Serves one guest from a recording (``vmbus.transport.server.PartitionHost``)."""

    def __init__(
        self, script: HostScript, address: str, *, speed: float = 1.0, on_departure: Callable[[str], None] = print
    ) -> None:
        """``speed`` 2.0 halves the pauses of the capture; 0 leaves them out."""
        openings = [opening for found in script.openings.values() for opening in found]
        self.result = HostResult(
            messages_expected=len(script.messages), packets_expected=sum(len(one.requests) for one in openings)
        )
        self._on_departure = on_departure
        self._loop = Loop()
        self._loop.on_error = self._failed
        self._pace = Pace(self._loop, speed)
        self._session = Session()
        self._left: dict[Hashable, deque[Request]] = {}
        for request in script.messages:
            body = parse_body(request.item)
            assert body is not None, "the script holds only messages that are understood"
            self._left.setdefault(message_identity(request.item, body), deque()).append(request)
        self._openings = {channel_id: deque(found) for channel_id, found in script.openings.items()}
        self._unasked = Unasked(script.unasked, self._pace, lambda said: self._post(said.item))
        self._address = parse_address(address)
        self._listener = listen(self._address)
        self._connection: GuestConnection | None = None
        self._memory: GuestMemory | None = None
        self._vps: list[SynicVp] = []
        self._target = (0, VMBUS_SINT)
        self._offers: dict[int, OfferChannel] = {}
        self._assemblers: dict[int, tuple[int, GpadlAssembler, list[Said]]] = {}
        self._gpadls: dict[int, dict[int, Gpadl]] = {}
        self._channels: dict[int, Channel] = {}
        self._players: list[ReplayedChannel] = []
        self._by_connection: dict[int, Channel] = {}
        self._heard = 0.0
        self._ended = False
        self._loop.watch(self._listener.fileno(), self._accept)

    def run(self) -> HostResult:
        """Wait for a guest, serve it until it leaves or can get no further, and say what it left out."""
        self._loop.run(lambda: self._ended)
        self._say_what_is_missing()
        return self.result

    def close(self) -> None:
        """Let the guest and everything of it go."""
        self._ended = True
        if self._connection is not None:
            self._connection.close()
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()
        self._address.path.unlink(missing_ok=True)
        self._loop.close()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        GuestConnection(connection, self._loop, self)

    def admit(self, connection: GuestConnection) -> HostPlayer:
        """One guest, once."""
        if self._connection is not None:
            raise HelloRefused(FrameStatus.BUSY, "another guest is connected")
        self._connection = connection
        return self

    def turned_away(self, connection: GuestConnection, reason: str) -> None:
        """Nobody who counts."""

    def _depart(self, line: str) -> None:
        self.result.departures += 1
        self._on_departure(line)

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, VmbusError):
            raise error
        self._depart(f"the guest cannot be served any further: {error}")
        self._ended = True

    # The guest's operations

    def hello(self, hello: Hello, descriptors: Sequence[int]) -> HelloReply:
        try:
            self._memory = GuestMemory.attach(descriptors[0], hello.memory_size, hello.first_gpa)
        except GuestMemoryError as error:
            raise HelloRefused(FrameStatus.BAD_MEMORY, str(error)) from None
        try:
            self._vps = make_vps(self._memory, descriptors[1:])
        except BadInterrupt as error:
            raise HelloRefused(FrameStatus.MALFORMED, str(error)) from None
        self._heard = time.monotonic()
        self._loop.call_later(_LOOK, self._look)
        return HelloReply()

    def set_register(self, vp: int, number: int, value: int) -> None:
        self._vps[vp].set_register(number, value)

    def get_register(self, vp: int, number: int) -> int:
        return self._vps[vp].get_register(number)

    def post_message(self, vp: int, connection_id: int, message_type: int, payload: bytes, sequence: int) -> int:
        if message_type != SYNIC_MESSAGE_TYPE:
            return HvStatus.INVALID_PARAMETER
        self.result.messages_received += 1
        item = self._feed(Direction.GUEST_TO_HOST, payload)
        body = parse_body(item)
        if body is None:
            self._depart(f"not understood: {item.summary}")
            return HvStatus.SUCCESS
        self._did_something(self._take(item, body))
        return HvStatus.SUCCESS

    def signal_event(self, vp: int, connection_id: int, flag: int) -> None:
        channel = self._by_connection.get(connection_id)
        if channel is not None:
            channel.on_signal()

    def note(self, kind: int, text: str) -> None:
        if kind == GuestNote.CRASH:
            self._depart(f"the guest crashed: {text}")

    def disconnected(self, reason: str) -> None:
        self._ended = True
        for channel_id in list(self._channels):
            self._close_channel(channel_id)
        for vp in self._vps:
            vp.close()
        self._gpadls.clear()
        if self._memory is not None:
            try:
                self._memory.close()
            except MemoryInUse:
                pass  # a view of the last packet; the process ends soon

    # Time

    def _did_something(self, request: Request | None) -> None:
        self._heard = time.monotonic()
        self._unasked.guest_did(request)

    def _look(self) -> None:
        """Go on where the guest does not, and give it up when it can get no further."""
        silence = time.monotonic() - self._heard
        open_players = [player for player in self._players if player.is_open]
        for unasked in (self._unasked, *(player.unasked for player in open_players)):
            if (said := unasked.overdue(silence)) is not None:
                item = said.item
                self._depart(
                    f"record {item.number} is said although the guest has done less than before it: {item.summary}"
                )
                self._heard = time.monotonic()
                unasked.go_on()
        stuck = next((item for player in open_players for item in player.unanswered.values()), None)
        if stuck is not None and silence > GIVE_UP:
            self._depart(f"given up: the guest waits for an answer that the recording does not have: {stuck.summary}")
            self._ended = True
        self._loop.call_later(_LOOK, self._look)

    def _say_what_is_missing(self) -> None:
        left = sorted((one for queue in self._left.values() for one in queue), key=lambda one: one.item.number)
        if left:
            first = left[0].item
            self._depart(f"{len(left)} messages did not come, the first is record {first.number}: {first.summary}")
        unopened = [opening.requests for found in self._openings.values() for opening in found]
        for missing in [player.missing for player in self._players] + unopened:
            if missing:
                first = missing[0].item
                self._depart(
                    f"channel {first.channel_name}: {len(missing)} packets did not come, "
                    f"the first is record {first.number}: {first.summary}"
                )
        self.result.packets_received = sum(player.received for player in self._players)
        self.result.packets_sent = sum(player.sent for player in self._players)

    # Messages

    def _feed(self, direction: Direction, payload: bytes) -> Decoded:
        return self._session.feed_bytes(
            MessageRecord(kind=RecordKind.MESSAGE, direction=direction).build() + payload, 0
        )

    def _take(self, item: Decoded, body: Format) -> Request | None:
        """Find a message in the recording, carry it out, and answer it."""
        if isinstance(body, (c.InitiateContact, c.InitiateContact5)):
            self._target = (body.target_message_vp, getattr(body, "target_sint", VMBUS_SINT))
        left = self._left.get(message_identity(item, body))
        request = left.popleft() if left else None
        if request is None and not isinstance(body, c.GpadlBody):
            self._depart(f"not in the recording: {item.summary}")
        answers = request.answers if request is not None else []
        match body:
            case c.GpadlHeader():
                recorded = parse_body(request.item) if request is not None else None
                if isinstance(recorded, c.GpadlHeader) and recorded.range_bytes != body.range_bytes:
                    self._depart(f"a GPADL of another size than in record {request.item.number}: {item.summary}")  # type: ignore[union-attr]
                content = bytes(item.data[item.body_at + _CONTENT_OF_HEADER :])
                assembler = GpadlAssembler(body.gpadl_id, body.range_count, body.range_bytes, content)
                self._assemblers[body.gpadl_id] = (body.channel_id, assembler, answers)
                self._finish_gpadl(body.gpadl_id)
            case c.GpadlBody():
                if body.gpadl_id in self._assemblers:
                    self._assemblers[body.gpadl_id][1].add_body(bytes(item.data[item.body_at + _CONTENT_OF_BODY :]))
                    self._finish_gpadl(body.gpadl_id)
            case c.GpadlTeardown():
                self._gpadls.get(body.channel_id, {}).pop(body.gpadl_id, None)
                self._answer(answers, body, c.GpadlTorndown(gpadl_id=body.gpadl_id))
            case c.OpenChannel():
                self._open(body, answers)
            case c.CloseChannel() | c.RelIdReleased():
                self._close_channel(body.channel_id)
            case c.ModifyChannel():
                if body.channel_id in self._channels:
                    self._channels[body.channel_id].target_vp = body.target_vp
                self._answer(answers, body, unrecorded_answer(body))
            case c.Unload():
                for channel_id in list(self._channels):
                    self._close_channel(channel_id)
                self._answer(answers, body, c.UnloadComplete())
            case _:
                self._answer(answers, body, unrecorded_answer(body))
        return request

    def _answer(self, answers: list[Said], asked: Format, otherwise: Format | None) -> None:
        """Say what the host answered, with the ids of the one who asks; what must be answered is, in any case."""
        for said in answers:
            recorded = parse_body(said.item)
            assert recorded is not None, "the script holds only messages that are understood"
            reply = readdressed(recorded, asked)
            self._pace.after(said.pause_ns, lambda said=said, reply=reply: self._post(said.item, reply))  # type: ignore[misc]
        if not answers and otherwise is not None:
            self._deliver(whole_message(otherwise))

    def _post(self, item: Decoded, body: Format | None = None) -> None:
        payload = bytes(item.data[item.body_at :])
        self._deliver(payload if body is None else payload[:HEADER_SIZE] + body.build())

    def _deliver(self, payload: bytes) -> None:
        if self._ended:
            return
        body = parse_body(self._feed(Direction.HOST_TO_GUEST, payload))
        if isinstance(body, OfferChannel):
            # Nobody looks at monitor pages here: the guest is to signal each channel by a call.
            self._offers[body.channel_id] = body = body.replace(monitor_id=NO_MONITOR, monitor_allocated=0)
            payload = payload[:HEADER_SIZE] + body.build()
        vp, sint = self._target
        self._vps[vp if vp < len(self._vps) else 0].post_message(sint, SYNIC_MESSAGE_TYPE, payload)
        self.result.messages_sent += 1

    def _finish_gpadl(self, gpadl_id: int) -> None:
        channel_id, assembler, answers = self._assemblers[gpadl_id]
        if not assembler.is_complete:
            return
        assert self._memory is not None, "no message comes before the hello"
        del self._assemblers[gpadl_id]
        self._gpadls.setdefault(channel_id, {})[gpadl_id] = assembler.finish(self._memory)
        made = c.GpadlCreated(channel_id=channel_id, gpadl_id=gpadl_id, status=Status.SUCCESS)
        self._answer(answers, made, made)

    # Channels

    def _open(self, body: c.OpenChannel, answers: list[Said]) -> None:
        refusal = c.OpenResult(channel_id=body.channel_id, open_id=body.open_id, status=Status.UNSUCCESSFUL)
        openings = self._openings.get(body.channel_id)
        offer = self._offers.get(body.channel_id)
        if not openings or offer is None:
            self._answer([], body, refusal)
            return
        script = openings.popleft()
        recorded = parse_body(answers[0].item) if answers else None
        if not isinstance(recorded, c.OpenResult) or not recorded.status.succeeded:
            self._answer(answers, body, refusal)
            return
        self._close_channel(body.channel_id)
        channel, player = self._make_channel(body, offer, script)
        self._answer(answers, body, None)

        def begin() -> None:
            channel.service()
            player.unasked.go_on()

        self._pace.after(answers[0].pause_ns, lambda: self._loop.call_soon(begin))

    def _make_channel(
        self, body: c.OpenChannel, offer: OfferChannel, script: ChannelScript
    ) -> tuple[Channel, ReplayedChannel]:
        assert self._memory is not None, "no message comes before the hello"
        gpadls = self._gpadls.setdefault(body.channel_id, {})
        ring = gpadls.get(body.ring_gpadl_id)
        if ring is None:
            raise VmbusError(f"the ring GPADL {body.ring_gpadl_id:#x} of channel {body.channel_id} does not exist")
        flag = getattr(body, "event_flag", 0) or body.channel_id
        channel = Channel(
            ChannelIdentity(body.channel_id, offer.interface_id, offer.instance_id, offer.subchannel_index),
            rings=map_ring_pair(self._memory, ring.page_run(), body.downstream_page_offset, is_guest=False),
            memory=self._memory,
            loop=self._loop,
            signal=lambda: self._signal(channel, flag),
            receives=Direction.GUEST_TO_HOST,
            gpadls=gpadls,
            on_failure=lambda channel, error: self._depart(f"channel {script.name} is broken: {error}"),
        )
        channel.target_vp = body.target_vp
        player = ReplayedChannel(channel, script, self._session, self._pace, self._depart, self._did_something)
        channel.handler = player
        self._players.append(player)
        self._channels[body.channel_id] = channel
        self._by_connection[getattr(body, "connection_id", 0) or offer.connection_id] = channel
        return channel, player

    def _signal(self, channel: Channel, flag: int) -> None:
        if channel.target_vp is not None and channel.target_vp < len(self._vps):
            self._vps[channel.target_vp].signal_event(VMBUS_SINT, flag)

    def _close_channel(self, channel_id: int) -> None:
        channel = self._channels.pop(channel_id, None)
        if channel is not None:
            self._by_connection = {key: other for key, other in self._by_connection.items() if other is not channel}
            channel.close()
