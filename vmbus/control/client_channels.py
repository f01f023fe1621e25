"""Channels and GPADLs at the guest's end.

Source: openvmm ``vmbus_client/src/lib.rs`` (``handle_open_channel``, ``handle_gpadl``, ``handle_gpadl_teardown``,
``handle_rescind``, ``try_release``, ``handle_modify_channel``, ``handle_open_result``, ``handle_gpadl_created``,
``handle_gpadl_torndown``).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from vmbus.control.client_base import ClientBase, ClientChannel, ClientGpadl
from vmbus.control.errors import (
    DuplicateOffer,
    InvalidChannelId,
    Misuse,
    NotNegotiated,
    UnsolicitedMessage,
    WrongState,
)
from vmbus.control.guest_events import (
    ChannelGone,
    ChannelModified,
    ChannelOffered,
    ChannelRescinded,
    GpadlFinished,
    GpadlTornDown,
    GuestEvent,
    OpenFinished,
    ReservedClosed,
)
from vmbus.control.guest_states import GUEST_CHANNEL, RESERVED, GuestChannel, GuestGpadl
from vmbus.control.transitions import Step
from vmbus.gpadl import MAX_GPADL_BYTES, GpaRange, build_ranges
from vmbus.wire import control
from vmbus.wire.control_values import (
    EVENT_CONNECTION_ID,
    INTERRUPTS_DISABLED,
    MAX_CHANNEL_ID,
    FeatureFlags,
    MessageType,
    OpenChannelFlags,
    Status,
    Version,
)
from vmbus.wire.offer import OfferChannel, OfferChannelPre7

_FIRST_GPADL_ID = 0xE1E10
"""Where Linux starts counting (``vmbus_connection.next_gpadl_handle``)."""
_SIGNAL = FeatureFlags.GUEST_SPECIFIED_SIGNAL_PARAMETERS
_REDIRECT = FeatureFlags.CHANNEL_INTERRUPT_REDIRECTION


class ClientChannels(ClientBase):
    """What drivers do with channels, and what the host answers."""

    def __init__(self) -> None:
        super().__init__()
        self.gpadls: dict[int, ClientGpadl] = {}
        """All that the host may still know, by id."""
        self._late_modifications: set[int] = set()
        """Channels that were rescinded while they were modified: an answer may still come."""
        self._let_go: set[int] = set()
        """Channels that were released: what the host said about them before it knew may still come."""
        self._next_gpadl_id = _FIRST_GPADL_ID

    # Memory

    def create_gpadl(self, channel_id: int, ranges: Sequence[GpaRange]) -> int:
        """Share memory with the host for a channel; return the GPADL's id.  ``GpadlFinished`` follows."""
        self._require(MessageType.GPADL_HEADER)
        channel = self._own(channel_id)
        if channel.state is GuestChannel.RESCINDED or channel.released or channel.state in RESERVED:
            raise WrongState(f"{channel.name} is {channel.state.value}: no memory can be shared for it")
        data = build_ranges(ranges)
        if not ranges or len(data) > MAX_GPADL_BYTES:
            raise Misuse(f"a GPADL describes 8 to {MAX_GPADL_BYTES} bytes of page ranges, not {len(data)}")
        gpadl = ClientGpadl(self._free_gpadl_id(), channel_id)
        self.gpadls[gpadl.gpadl_id] = channel.gpadls[gpadl.gpadl_id] = gpadl
        words = tuple(int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8))
        self._send(
            control.GpadlHeader(
                channel_id=channel_id,
                gpadl_id=gpadl.gpadl_id,
                range_bytes=len(data),
                range_count=len(ranges),
                words=words[: control.MAX_HEADER_WORDS],
            )
        )
        for start in range(control.MAX_HEADER_WORDS, len(words), control.MAX_BODY_WORDS):
            piece = words[start : start + control.MAX_BODY_WORDS]
            self._send(control.GpadlBody(gpadl_id=gpadl.gpadl_id, words=piece))
        return gpadl.gpadl_id

    def _free_gpadl_id(self) -> int:
        while True:
            gpadl_id = self._next_gpadl_id
            self._next_gpadl_id = (gpadl_id + 1) & 0xFFFFFFFF or 1
            if gpadl_id not in self.gpadls:
                return gpadl_id

    def teardown_gpadl(self, gpadl_id: int) -> None:
        """Take shared memory back.  ``GpadlTornDown`` follows; until then it is not ours alone."""
        self._require(MessageType.GPADL_TEARDOWN)
        gpadl = self.gpadls.get(gpadl_id)
        if gpadl is None:
            raise Misuse(f"there is no GPADL {gpadl_id:#x}")
        if self.channels[gpadl.channel_id].state in RESERVED:
            raise WrongState(f"channel {gpadl.channel_id} is open as a reserved channel and keeps its GPADLs")
        gpadl.advance(Step.TEARDOWN)
        self._send(control.GpadlTeardown(channel_id=gpadl.channel_id, gpadl_id=gpadl_id))

    def _on_gpadl_created(self, body: control.GpadlCreated) -> None:
        gpadl = self.gpadls.get(body.gpadl_id)
        if gpadl is None or gpadl.channel_id != body.channel_id or gpadl.state is not GuestGpadl.CREATING:
            raise UnsolicitedMessage(f"GPADL {body.gpadl_id:#x} of channel {body.channel_id} waits for no answer")
        # Linux takes anything but 0 as a failure; a host has no reason to send a warning.
        if gpadl.advance(Step.CREATED if body.status == Status.SUCCESS else Step.REFUSED) is GuestGpadl.GONE:
            self._forget_gpadl(gpadl)
        self._emit(GpadlFinished(body.channel_id, body.gpadl_id, body.status))
        self._release_if_quiet(self.channels[gpadl.channel_id])

    def _on_gpadl_torndown(self, body: control.GpadlTorndown) -> None:
        gpadl = self.gpadls.get(body.gpadl_id)
        if gpadl is None or gpadl.state is not GuestGpadl.TEARING_DOWN:
            raise UnsolicitedMessage(f"GPADL {body.gpadl_id:#x} is not being torn down")
        gpadl.advance(Step.TORN_DOWN)
        self._forget_gpadl(gpadl)
        self._emit(GpadlTornDown(gpadl.channel_id, gpadl.gpadl_id))
        self._release_if_quiet(self.channels[gpadl.channel_id])

    def _forget_gpadl(self, gpadl: ClientGpadl) -> None:
        del self.gpadls[gpadl.gpadl_id]
        del self.channels[gpadl.channel_id].gpadls[gpadl.gpadl_id]

    # Open and close

    def open(
        self,
        channel_id: int,
        ring_gpadl_id: int,
        downstream_page_offset: int,
        *,
        target_vp: int | None = 0,
        user_data: bytes = b"",
        event_flag: int | None = None,
        connection_id: int | None = None,
        redirect_interrupt: bool = False,
    ) -> None:
        """Open a channel whose rings are in a GPADL, ours first.  ``OpenFinished`` follows.

        ``target_vp``: the processor to interrupt, None to poll.  ``event_flag`` and ``connection_id`` choose how each
        end is signalled, and need GUEST_SPECIFIED_SIGNAL_PARAMETERS; ``redirect_interrupt`` needs
        CHANNEL_INTERRUPT_REDIRECTION, and the channel's ``redirected_flag`` says which flag to look at then.
        """
        self._require(MessageType.OPEN_CHANNEL)
        channel = self._own(channel_id)
        if (event_flag is not None or connection_id is not None) and not self.features & _SIGNAL:
            raise NotNegotiated("the host does not let the guest choose how they signal each other")
        if redirect_interrupt and not self.features & _REDIRECT:
            raise NotNegotiated("the host does not redirect interrupts")
        if channel.released:
            raise WrongState(f"{channel.name} is being released")
        if event_flag is None:
            # The redirected SINT is another layer's: its flags are numbered by themselves.
            own = redirect_interrupt and self.features & _SIGNAL
            event_flag = self._free_redirected_flag() if own else channel_id
        elif redirect_interrupt and event_flag in self._redirected_flags():
            raise Misuse(f"event flag {event_flag} of the redirected SINT belongs to another channel")
        channel.advance(Step.OPEN)
        channel.open_id = channel.open_id + 1 & 0xFFFFFFFF
        channel.event_flag, channel.is_redirected = event_flag, redirect_interrupt
        channel.connection_id = self._signals(channel.offer) if connection_id is None else connection_id
        request = control.OpenChannel2(
            channel_id=channel_id,
            open_id=channel.open_id,
            ring_gpadl_id=ring_gpadl_id,
            target_vp=INTERRUPTS_DISABLED if target_vp is None else target_vp,
            downstream_page_offset=downstream_page_offset,
            user_data=user_data,
            connection_id=channel.connection_id,
            event_flag=event_flag,
            flags=OpenChannelFlags.REDIRECT_INTERRUPT if redirect_interrupt else OpenChannelFlags(0),
        )
        self._send(request if self.features & (_SIGNAL | _REDIRECT) else control.OpenChannel.parse(request.build()))

    def _redirected_flags(self) -> set[int]:
        return {channel.redirected_flag for channel in self.channels.values() if channel.redirected_flag is not None}

    def _free_redirected_flag(self) -> int:
        """The lowest that no channel has (openvmm ``allocate_event_flag``): there are as many as there are channels."""
        taken = self._redirected_flags()
        return next(flag for flag in count(1) if flag not in taken)

    def open_reserved(
        self, channel_id: int, ring_gpadl_id: int, downstream_page_offset: int, *, target_vp: int, target_sint: int
    ) -> None:
        """Open a channel outside the connection, for a crash dump or hibernation.  ``OpenFinished`` follows.

        It survives ``unload``, is polled, and its answers come to ``target_sint`` of ``target_vp``.
        """
        self._require(MessageType.OPEN_RESERVED_CHANNEL)
        channel = self._own(channel_id)
        if channel.released:
            raise WrongState(f"{channel.name} is being released")
        channel.advance(Step.OPEN_RESERVED)
        self._reserved_version = self.version or self._reserved_version
        self._send(
            control.OpenReservedChannel(
                channel_id=channel_id,
                target_vp=target_vp,
                target_sint=target_sint,
                ring_gpadl_id=ring_gpadl_id,
                downstream_page_offset=downstream_page_offset,
            )
        )

    def _on_open_result(self, body: control.OpenResult) -> None:
        channel = self._named_by_host(body.channel_id)
        step = Step.OPENED if body.status == Status.SUCCESS else Step.OPEN_FAILED
        if step not in GUEST_CHANNEL[channel.state]:
            raise UnsolicitedMessage(f"{channel.name} is not being opened")
        if channel.state is GuestChannel.OPENING and body.open_id != channel.open_id:
            raise UnsolicitedMessage(f"{channel.name}: open request {body.open_id} is not the one that waits")
        channel.advance(step)
        self._emit(OpenFinished(body.channel_id, body.status))
        self._drop_outlived(channel)

    def close(self, channel_id: int) -> None:
        """Close an open channel.  It may be opened again at once."""
        channel = self._own(channel_id)
        was_rescinded = channel.state is GuestChannel.RESCINDED
        channel.advance(Step.CLOSE)
        if self.is_connected and not was_rescinded:
            self._send(control.CloseChannel(channel_id=channel_id))

    def close_reserved(self, channel_id: int, *, target_vp: int, target_sint: int) -> None:
        """Close a reserved channel, connected or not.

        ``ReservedClosed`` follows; the answer comes to ``target_sint`` of ``target_vp``.
        """
        if self._own(channel_id).advance(Step.CLOSE_RESERVED) is GuestChannel.CLOSING_RESERVED:
            self._send(
                control.CloseReservedChannel(channel_id=channel_id, target_vp=target_vp, target_sint=target_sint)
            )

    def _on_close_reserved_response(self, body: control.CloseReservedResponse) -> None:
        if body.channel_id in self._let_go:
            return
        channel = self._named_by_host(body.channel_id)
        if channel.state is GuestChannel.RESCINDED:
            return  # the rescind came first, and has said enough
        if channel.state is not GuestChannel.CLOSING_RESERVED:
            raise UnsolicitedMessage(f"{channel.name} is not being closed")
        channel.advance(Step.CLOSED)
        self._emit(ReservedClosed(body.channel_id))
        self._drop_outlived(channel)

    def _drop_outlived(self, channel: ClientChannel) -> None:
        """A reserved channel that is in use no more and whose connection has ended is gone."""
        if channel.state is GuestChannel.OFFERED and not self.is_connected:
            self._drop(channel)

    def modify_channel(self, channel_id: int, target_vp: int) -> None:
        """Interrupt another processor for an open channel.  From 5.3 on ``ChannelModified`` follows."""
        self._require(MessageType.MODIFY_CHANNEL)
        channel = self._own(channel_id)
        if channel.state is not GuestChannel.OPEN or channel.modifying:
            raise WrongState(f"{channel.name} is not open, or is being modified already")
        channel.modifying = self.version is not None and self.version >= Version.V5_3
        self._send(control.ModifyChannel(channel_id=channel_id, target_vp=target_vp))

    def _on_modify_channel_response(self, body: control.ModifyChannelResponse) -> None:
        if body.channel_id in self._late_modifications:
            self._late_modifications.discard(body.channel_id)
            return
        channel = self._named_by_host(body.channel_id)
        if not channel.modifying:
            raise UnsolicitedMessage(f"{channel.name} is not being modified")
        channel.modifying = False
        self._emit(ChannelModified(body.channel_id, body.status))
        self._release_if_quiet(channel)

    # Offers and their end

    def _on_offer(self, offer: OfferChannel | OfferChannelPre7) -> ClientChannel:
        if not 0 < offer.channel_id <= MAX_CHANNEL_ID:
            raise InvalidChannelId(f"a channel cannot have the id {offer.channel_id:#x}")
        if offer.channel_id in self.channels:
            raise DuplicateOffer(f"channel {offer.channel_id} is known already")
        channel = ClientChannel(offer, self._signals(offer))
        self.channels[offer.channel_id] = channel
        self._late_modifications.discard(offer.channel_id)
        self._let_go.discard(offer.channel_id)
        self._emit(ChannelOffered(offer, channel.connection_id))
        return channel

    def _signals(self, offer: OfferChannel | OfferChannelPre7) -> int:
        """The connection that the guest signals: before 1.1 all channels share one (Linux ``vmbus_setevent``)."""
        if isinstance(offer, OfferChannel) and self.version is not None and self.version >= Version.V1_1:
            return offer.connection_id
        return EVENT_CONNECTION_ID

    def _on_rescind(self, body: control.RescindChannelOffer) -> None:
        if body.channel_id in self._let_go:
            self._let_go.discard(body.channel_id)
            return  # it crossed our release
        channel = self._named_by_host(body.channel_id)
        if channel.state is GuestChannel.RESCINDED:
            raise UnsolicitedMessage(f"{channel.name} is rescinded already")
        was_opening = channel.state in (GuestChannel.OPENING, GuestChannel.OPENING_RESERVED)
        was_closing = channel.state is GuestChannel.CLOSING_RESERVED
        channel.advance(Step.RESCIND)
        if was_opening:
            # The host will not answer any more (Linux vmbus_rescind_cleanup).
            self._emit(OpenFinished(body.channel_id, Status.UNSUCCESSFUL))
        if was_closing:
            self._emit(ReservedClosed(body.channel_id))
        if channel.modifying:
            # The same, but some hosts do answer.
            channel.modifying = False
            self._late_modifications.add(body.channel_id)
            self._emit(ChannelModified(body.channel_id, Status.UNSUCCESSFUL))
        self._emit(ChannelRescinded(body.channel_id))
        self._release_if_quiet(channel)

    def release(self, channel_id: int) -> list[GuestEvent]:
        """Let go of a channel that is not open.  ``ChannelGone`` follows, at once or when the host has answered all.

        GPADLs that were not torn down go with it.  Of a channel that is not rescinded the host offers no more in
        this connection.
        """
        channel = self._own(channel_id)
        if Step.RELEASE not in GUEST_CHANNEL[channel.state]:
            raise WrongState(f"{channel.name} is {channel.state.value}: close it first")
        channel.released = True
        self._release_if_quiet(channel)
        return self._take_events()

    def _release_if_quiet(self, channel: ClientChannel) -> None:
        if channel.released and not channel.waits and Step.RELEASE in GUEST_CHANNEL[channel.state]:
            channel.advance(Step.RELEASE)
            if self.is_connected:
                self._let_go.add(channel.channel_id)
                self._send(control.RelIdReleased(channel_id=channel.channel_id))
            self._drop(channel)
            self._emit(ChannelGone(channel.channel_id))

    def _drop(self, channel: ClientChannel) -> None:
        """Forget a channel with its GPADLs, which the host forgets too."""
        for gpadl in list(channel.gpadls.values()):
            self._forget_gpadl(gpadl)
        del self.channels[channel.channel_id]
