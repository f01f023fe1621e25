"""GPADLs at the host's end: assembled from header and bodies, given to the device, torn down.

Source: openvmm ``vmbus_server/src/channels.rs`` (``handle_gpadl_header_core``, ``handle_gpadl_body``,
``handle_gpadl_teardown``, ``gpadl_create_complete``, ``gpadl_teardown_complete``, ``revoke``,
``client_release_channel``).
"""

from __future__ import annotations

from vmbus.control.errors import (
    ChannelReserved,
    DuplicateGpadl,
    IllegalGpadlState,
    MalformedGpadl,
    TooManyGpadls,
    UnknownGpadl,
    Violation,
)
from vmbus.control.host_events import GpadlRequested, GpadlTeardownRequested
from vmbus.control.host_states import HOST_GPADL, HostGpadl
from vmbus.control.offers import Channel
from vmbus.control.server_base import ServerBase, ServerConfig
from vmbus.control.transitions import Step, advance
from vmbus.gpadl import GpadlAssembler, GpadlError, GpaRange, build_ranges
from vmbus.wire.control import GpadlBody, GpadlCreated, GpadlHeader, GpadlTeardown, GpadlTorndown
from vmbus.wire.control_values import Status

OVERHEAD_WORDS = 64
"""As much memory as so many page numbers of it an entry takes up by itself, roughly."""


class ServerGpadl:
    """A GPADL that the guest announced."""

    __slots__ = ("_assembler", "channel_id", "gpadl_id", "ranges", "state", "words")

    def __init__(self, channel_id: int, gpadl_id: int, words: int) -> None:
        self.channel_id = channel_id
        self.gpadl_id = gpadl_id
        self.words = words
        self.state = HostGpadl.IN_PROGRESS
        self.ranges: tuple[GpaRange, ...] = ()
        self._assembler: GpadlAssembler | None = None

    @property
    def cost(self) -> int:
        """What it counts for among all: a guest may make many of few words."""
        return self.words + OVERHEAD_WORDS

    def begin(self, range_count: int, content: bytes) -> bool:
        """Take the header's content; whether that was all of it."""
        self._assembler = GpadlAssembler(self.gpadl_id, range_count, self.words * 8, content)
        return self._finish()

    def add(self, content: bytes) -> bool:
        """Take a body's content; whether the description is complete now."""
        assert self._assembler is not None
        self._assembler.add_body(content)
        return self._finish()

    def _finish(self) -> bool:
        assert self._assembler is not None
        if not self._assembler.is_complete:
            return False
        self.ranges = tuple(self._assembler.ranges())
        self._assembler = None
        return True

    def advance(self, step: Step) -> HostGpadl:
        self.state = advance(HOST_GPADL, self.state, step, IllegalGpadlState, f"GPADL {self.gpadl_id:#x}")
        return self.state

    def allows(self, step: Step) -> bool:
        return step in HOST_GPADL[self.state]

    def collected(self) -> tuple[int, bytes]:
        """The number of ranges, and the bytes that describe them as far as they have come."""
        if self._assembler is None:
            return len(self.ranges), build_ranges(self.ranges)
        return self._assembler.range_count, self._assembler.collected


class ServerGpadls(ServerBase):
    """The rules about GPADLs."""

    def __init__(self, config: ServerConfig) -> None:
        super().__init__(config)
        self.gpadls: dict[tuple[int, int], ServerGpadl] = {}
        """By channel id and GPADL id: a guest numbers its GPADLs for each channel."""
        self._in_progress: dict[int, ServerGpadl] = {}
        """By GPADL id alone, because bodies name no channel."""
        self._gpadl_words = 0
        """Of all GPADLs; bounded, because the guest chooses how many there are."""

    # What the guest says

    def _on_gpadl_header(self, body: GpadlHeader) -> None:
        try:
            self._begin_gpadl(body)
        except Violation:
            self._answer_created(body.channel_id, body.gpadl_id, Status.UNSUCCESSFUL)
            raise

    def _begin_gpadl(self, body: GpadlHeader) -> None:
        channel = self.offers.named_by_guest(body.channel_id)
        if channel.reserved:
            raise ChannelReserved(f"{channel.name} is open as a reserved channel and gets no GPADLs")
        if (body.channel_id, body.gpadl_id) in self.gpadls or body.gpadl_id in self._in_progress:
            raise DuplicateGpadl(f"GPADL {body.gpadl_id:#x} exists already")
        words = body.range_bytes // 8
        gpadl = ServerGpadl(body.channel_id, body.gpadl_id, words)
        if self._gpadl_words + gpadl.cost > self.config.max_gpadl_words:
            raise TooManyGpadls(f"GPADL {body.gpadl_id:#x}: {words} words on top of those announced are too many")
        try:
            complete = gpadl.begin(body.range_count, body.build()[GpadlHeader.SIZE :])
        except GpadlError as error:
            raise MalformedGpadl(str(error)) from error
        self._remember(gpadl)
        if complete:
            self._gpadl_complete(channel, gpadl)
        else:
            self._in_progress[body.gpadl_id] = gpadl

    def _on_gpadl_body(self, body: GpadlBody) -> None:
        gpadl = self._in_progress.get(body.gpadl_id)
        if gpadl is None:
            # Without a channel id there is nobody to answer.
            raise UnknownGpadl(f"GPADL {body.gpadl_id:#x} is not in progress")
        try:
            complete = gpadl.add(body.build()[GpadlBody.SIZE :])
        except GpadlError as error:
            self._forget(gpadl)
            self._answer_created(gpadl.channel_id, gpadl.gpadl_id, Status.UNSUCCESSFUL)
            raise MalformedGpadl(str(error)) from error
        if complete:
            del self._in_progress[body.gpadl_id]
            self._gpadl_complete(self.offers.own(gpadl.channel_id), gpadl)

    def _gpadl_complete(self, channel: Channel, gpadl: ServerGpadl) -> None:
        gpadl.advance(Step.COMPLETE)
        if channel.state.is_rescinded:
            # There is no device any more, and the guest may still finish what it began.
            gpadl.advance(Step.CREATED)
            self._answer_created(gpadl.channel_id, gpadl.gpadl_id, Status.SUCCESS)
        else:
            self._emit(GpadlRequested(gpadl.channel_id, gpadl.gpadl_id, gpadl.ranges))

    def _on_gpadl_teardown(self, body: GpadlTeardown) -> None:
        channel = self.offers.named_by_guest(body.channel_id)
        gpadl = self.gpadls.get((body.channel_id, body.gpadl_id))
        if gpadl is None:
            raise UnknownGpadl(f"{channel.name} has no GPADL {body.gpadl_id:#x}")
        if channel.reserved:
            # GPADL_TORNDOWN names no channel: an id may be in use by a later connection as well.
            raise ChannelReserved(f"{channel.name} is open as a reserved channel and keeps its GPADLs")
        gpadl.advance(Step.TEARDOWN)
        if channel.state.is_rescinded:
            self._forget(gpadl)
            self._tell(GpadlTorndown(gpadl_id=gpadl.gpadl_id))
        else:
            self._emit(GpadlTeardownRequested(gpadl.channel_id, gpadl.gpadl_id))

    # What our own side answers

    def _gpadl_answered(self, channel_id: int, gpadl_id: int, status: Status) -> None:
        gpadl = self.gpadls.get((channel_id, gpadl_id))
        step = Step.CREATED if status.succeeded else Step.REFUSED
        if gpadl is None or not gpadl.allows(step):
            self._stray(f"GPADL {gpadl_id:#x} of channel {channel_id} was answered, but is not waiting for it")
            return
        guest_waits = gpadl.state is HostGpadl.OFFERED
        if gpadl.advance(step) is HostGpadl.TEARING_DOWN_RELEASED:
            self._emit(GpadlTeardownRequested(channel_id, gpadl_id))
        if guest_waits:
            self._answer_created(channel_id, gpadl_id, status)
        if gpadl.state is HostGpadl.GONE:
            self._forget(gpadl)

    def _gpadl_torn_down(self, channel_id: int, gpadl_id: int) -> None:
        gpadl = self.gpadls.get((channel_id, gpadl_id))
        if gpadl is None or not gpadl.allows(Step.TORN_DOWN):
            self._stray(f"GPADL {gpadl_id:#x} of channel {channel_id} was torn down, but nobody asked for it")
            return
        if gpadl.state is HostGpadl.TEARING_DOWN:
            self._tell(GpadlTorndown(gpadl_id=gpadl_id))
        self._forget(gpadl)

    # What happens to a channel

    def _rescind_gpadls(self, channel: Channel) -> None:
        """The device is gone: answer for it.  What it had accepted stays until the guest lets go."""
        for gpadl in self._gpadls_of(channel):
            if not gpadl.allows(Step.RESCIND):
                continue
            if gpadl.state is HostGpadl.OFFERED:
                self._answer_created(gpadl.channel_id, gpadl.gpadl_id, Status.UNSUCCESSFUL)
            elif gpadl.state is HostGpadl.TEARING_DOWN:
                self._tell(GpadlTorndown(gpadl_id=gpadl.gpadl_id))
            gpadl.advance(Step.RESCIND)
            self._forget(gpadl)

    def _release_gpadls(self, channel: Channel) -> None:
        """The guest has let go of the channel and with it of all its GPADLs."""
        for gpadl in self._gpadls_of(channel):
            was_accepted = gpadl.state is HostGpadl.ACCEPTED
            if gpadl.advance(Step.RELEASE) is HostGpadl.GONE or channel.state.is_rescinded:
                self._forget(gpadl)
            elif was_accepted:
                self._emit(GpadlTeardownRequested(gpadl.channel_id, gpadl.gpadl_id))

    def _abandon_gpadls(self, channel: Channel) -> None:
        """The connection has ended under a reserved channel: it keeps its memory, and nobody waits for answers."""
        for gpadl in self._gpadls_of(channel):
            if gpadl.state is not HostGpadl.ACCEPTED and gpadl.advance(Step.RELEASE) is HostGpadl.GONE:
                self._forget(gpadl)

    def _gpadls_of(self, channel: Channel) -> list[ServerGpadl]:
        return [gpadl for gpadl in self.gpadls.values() if gpadl.channel_id == channel.channel_id]

    def _remember(self, gpadl: ServerGpadl) -> None:
        self.gpadls[gpadl.channel_id, gpadl.gpadl_id] = gpadl
        self._gpadl_words += gpadl.cost

    def _forget(self, gpadl: ServerGpadl) -> None:
        self._gpadl_words -= gpadl.cost
        del self.gpadls[gpadl.channel_id, gpadl.gpadl_id]
        if self._in_progress.get(gpadl.gpadl_id) is gpadl:
            del self._in_progress[gpadl.gpadl_id]

    def _answer_created(self, channel_id: int, gpadl_id: int, status: Status) -> None:
        self._tell(GpadlCreated(channel_id=channel_id, gpadl_id=gpadl_id, status=status))
