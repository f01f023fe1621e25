"""Channels at the host's end: offered, opened, closed, modified, rescinded, released.

Every function here finds the next state in ``host_states.HOST_CHANNEL`` and says what has to be told to whom.

Source: openvmm ``vmbus_server/src/channels.rs`` (``offer_channel``, ``handle_open_channel``, ``open_complete``,
``handle_close_channel``, ``close_complete``, ``handle_rel_id_released``, ``modify_channel``, ``revoke``).
"""

from __future__ import annotations

from dataclasses import replace

from vmbus.control.errors import (
    ChannelAlreadyOpen,
    ChannelNotOpen,
    ChannelNotReserved,
    ChannelReserved,
    IllegalChannelState,
    InterruptsDisabled,
    InvalidSignalParameters,
    InvalidTargetVp,
    Misuse,
    ModifyInProgress,
    Violation,
)
from vmbus.control.host_events import ChannelReleased, CloseRequested, ModifyChannelRequested, OpenRequested
from vmbus.control.host_states import HOST_CHANNEL, HostChannel
from vmbus.control.offers import Channel, OpenRequest, Reserved
from vmbus.control.outbox import Target
from vmbus.control.server_gpadls import ServerGpadls
from vmbus.control.transitions import Step, advance
from vmbus.wire import control
from vmbus.wire.control_values import (
    INTERRUPTS_DISABLED,
    MAX_CHANNEL_ID,
    FeatureFlags,
    OpenChannelFlags,
    Status,
    Version,
)


def _step(channel: Channel, step: Step, broken: type[Violation]) -> HostChannel:
    channel.state = advance(HOST_CHANNEL, channel.state, step, broken, channel.name)
    return channel.state


class ServerChannels(ServerGpadls):
    """The rules about channels."""

    # Open

    def _on_open_channel(self, body: control.OpenChannel) -> None:
        channel = self.offers.named_by_guest(body.channel_id)
        request = self._as_negotiated(body)
        self._check_signal_parameters(channel, request)
        match _step(channel, Step.OPEN, ChannelAlreadyOpen):
            case HostChannel.OPENING:
                self._request_open(channel, request)
            case HostChannel.REOPENING:
                channel.reopen = request
            case _:
                pass  # rescinded: the guest will notice

    def _check_signal_parameters(self, channel: Channel, request: OpenRequest) -> None:
        """What the guest may choose must exist, and must not take another channel's signals away."""
        flag, connection_id = request.event_flag, request.connection_id
        problem = ""
        if flag is not None and flag > MAX_CHANNEL_ID:
            problem = f"there is no event flag {flag}"
        elif connection_id is not None and connection_id in self._connections_of_others(channel):
            problem = f"connection {connection_id:#x} belongs to another channel"
        if problem:
            status = Status.UNSUCCESSFUL
            self._send(control.OpenResult(channel_id=channel.channel_id, open_id=request.open_id, status=status))
            raise InvalidSignalParameters(f"{channel.name}: {problem}")

    def _connections_of_others(self, channel: Channel) -> set[int]:
        others = [other for other in self.offers if other is not channel]
        chosen = {other.request.connection_id for other in others if other.request and other.request.connection_id}
        return chosen | {other.connection_id for other in others}

    def _as_negotiated(self, body: control.OpenChannel) -> OpenRequest:
        """The request without the fields that the connection has not agreed on."""
        event_flag = connection_id = None
        redirect = False
        if isinstance(body, control.OpenChannel2):
            if self.features & FeatureFlags.GUEST_SPECIFIED_SIGNAL_PARAMETERS:
                event_flag, connection_id = body.event_flag, body.connection_id
            if self.features & FeatureFlags.CHANNEL_INTERRUPT_REDIRECTION:
                redirect = bool(body.flags & OpenChannelFlags.REDIRECT_INTERRUPT)
        return OpenRequest(
            open_id=body.open_id,
            ring_gpadl_id=body.ring_gpadl_id,
            downstream_page_offset=body.downstream_page_offset,
            # Before 2.4 channels interrupt processor 0 (Linux include/linux/hyperv.h).
            target_vp=body.target_vp if self._speaks(Version.V2_4) else 0,
            user_data=body.user_data,
            event_flag=event_flag,
            connection_id=connection_id,
            redirect_interrupt=redirect,
        )

    def _request_open(self, channel: Channel, request: OpenRequest) -> None:
        channel.request, channel.reopen = request, None
        self._emit(OpenRequested(channel.channel_id, channel.open_params(request)))

    def _on_open_reserved(self, body: control.OpenReservedChannel) -> None:
        channel = self.offers.named_by_guest(body.channel_id)
        target = Target(body.target_vp, body.target_sint & 0xFF)
        match _step(channel, Step.OPEN_RESERVED, IllegalChannelState):
            case HostChannel.OPENING:
                assert self.version is not None  # the message is known only where one is spoken
                channel.reserved = Reserved(target, self.version, self.features)
                # A reserved channel is polled (openvmm: "this matches Hyper-V behavior").
                ring = body.ring_gpadl_id, body.downstream_page_offset
                self._request_open(channel, OpenRequest(0, *ring, INTERRUPTS_DISABLED, bytes(120)))
            case HostChannel.CLOSING:
                result = control.OpenResult(channel_id=channel.channel_id, open_id=0, status=Status.UNSUCCESSFUL)
                self._send(result, target)
            case _:
                pass  # rescinded: the guest will notice

    def _open_finished(self, channel: Channel, status: Status) -> None:
        step = Step.OPENED if status.succeeded else Step.OPEN_FAILED
        if step not in HOST_CHANNEL[channel.state]:
            self._stray(f"{channel.name} was opened, but nobody asked for it")
            return
        request = channel.request
        guest_waits = channel.state is HostChannel.OPENING
        if guest_waits and request is not None:
            answer = control.OpenResult(channel_id=channel.channel_id, open_id=request.open_id, status=status)
            self._send(answer, channel.answers_to)
        match _step(channel, step, IllegalChannelState):
            case HostChannel.CLOSING_RELEASED:
                self._emit(CloseRequested(channel.channel_id))
            case HostChannel.OPEN:
                pass
            case _:
                self._not_in_use(channel)
                self._end_reserved(channel)

    # Close

    def _on_close_channel(self, body: control.CloseChannel) -> None:
        channel = self.offers.named_by_guest(body.channel_id)
        if channel.reserved:
            raise ChannelReserved(f"{channel.name} is open as a reserved channel")
        if _step(channel, Step.CLOSE, ChannelNotOpen) is HostChannel.CLOSING:
            self._emit(CloseRequested(channel.channel_id))

    def _on_close_reserved(self, body: control.CloseReservedChannel) -> None:
        channel = self.offers.named_by_guest(body.channel_id)
        reserved, target = channel.reserved, Target(body.target_vp, body.target_sint & 0xFF)
        if channel.state is HostChannel.OPEN and reserved is None:
            raise ChannelNotReserved(f"{channel.name} is open, but not as a reserved channel")
        if _step(channel, Step.CLOSE_RESERVED, ChannelNotOpen) is HostChannel.CLOSING and reserved is not None:
            # The answer goes where this request says, not where the open request said.
            channel.reserved = replace(reserved, target=target)
            self._emit(CloseRequested(channel.channel_id))
        else:
            # There is no device any more, and the guest may not know.
            self._send(control.CloseReservedResponse(channel_id=channel.channel_id), target)
            if self.version is None:
                self._release(channel, Step.DISCONNECT)
            elif reserved is not None:
                channel.reserved = None
                self._tell(control.RescindChannelOffer(channel_id=channel.channel_id))

    def _close_finished(self, channel: Channel) -> None:
        if Step.CLOSED not in HOST_CHANNEL[channel.state]:
            self._stray(f"{channel.name} was closed, but nobody asked for it")
            return
        answers_to, reopen = channel.answers_to, channel.reopen
        state = _step(channel, Step.CLOSED, IllegalChannelState)
        self._not_in_use(channel)
        if state is HostChannel.OPENING and reopen is not None:
            self._request_open(channel, reopen)
        elif state is HostChannel.OFFERED and answers_to is not None:
            self._send(control.CloseReservedResponse(channel_id=channel.channel_id), answers_to)
            self._end_reserved(channel)

    def _end_reserved(self, channel: Channel) -> None:
        """A reserved channel that outlived its connection is like all others again."""
        if self.version is None and channel.state is HostChannel.OFFERED:
            self._release(channel, Step.DISCONNECT)

    def _not_in_use(self, channel: Channel) -> None:
        """The device no longer uses the channel."""
        channel.forget_requests()
        self._answer_modify(channel, Status.UNSUCCESSFUL)

    # Modify

    def _on_modify_channel(self, body: control.ModifyChannel) -> None:
        try:
            self._modify_channel(body.channel_id, body.target_vp)
        except ModifyInProgress:
            raise  # the modification that is in progress will be answered
        except Violation:
            self._send_modify_response(body.channel_id, Status.UNSUCCESSFUL)
            raise

    def _modify_channel(self, channel_id: int, target_vp: int) -> None:
        if target_vp == INTERRUPTS_DISABLED:
            raise InvalidTargetVp(f"channel {channel_id}: interrupts cannot be disabled while it is open")
        channel = self.offers.named_by_guest(channel_id)
        if channel.state.is_rescinded:
            # The guest did not know yet.
            self._send_modify_response(channel_id, Status.UNSUCCESSFUL)
            return
        request = channel.request
        if channel.state is not HostChannel.OPEN or channel.reserved or request is None:
            raise IllegalChannelState(f"{channel.name} is not open")
        if request.target_vp == INTERRUPTS_DISABLED:
            raise InterruptsDisabled(f"{channel.name} was opened without interrupts")
        if not channel.modifying:
            channel.modifying = True
            channel.with_target_vp(target_vp)
            self._emit(ModifyChannelRequested(channel_id, target_vp))
        elif self._speaks(Version.V5_3):
            raise ModifyInProgress(f"{channel.name} is being modified already")
        else:
            # An older guest cannot know when a modification is done: the last one counts.
            channel.pending_vp = target_vp

    def _modify_finished(self, channel: Channel, status: Status) -> None:
        if not channel.modifying:
            self._stray(f"{channel.name} was modified, but nobody asked for it")
            return
        pending = channel.pending_vp
        self._answer_modify(channel, status)
        if pending is not None and channel.state is HostChannel.OPEN:
            self._modify_channel(channel.channel_id, pending)

    def _answer_modify(self, channel: Channel, status: Status) -> None:
        if channel.modifying:
            channel.modifying, channel.pending_vp = False, None
            self._send_modify_response(channel.channel_id, status)

    def _send_modify_response(self, channel_id: int, status: Status) -> None:
        if self._speaks(Version.V5_3):
            self._send(control.ModifyChannelResponse(channel_id=channel_id, status=status))

    # Rescind and release

    def _rescind(self, channel: Channel) -> None:
        """The device goes, and so does the channel as soon as no guest knows of it."""
        self._take_back(channel)
        self._release_if_unknown(channel)

    def _release_if_unknown(self, channel: Channel) -> None:
        """Without a connection nobody but its user, if it is open as a reserved channel, will ever release it."""
        if channel.state.is_rescinded and self.version is None and channel.reserved is None:
            self._release(channel, Step.DISCONNECT)

    def _take_back(self, channel: Channel) -> None:
        """The device goes.  Every question the guest still has is answered before it hears of that.

        Openvmm leaves an open request without an answer here; guests have waited for it for ever (WSL issue 41286).
        """
        if channel.state is HostChannel.RESCINDED:
            raise Misuse(f"{channel.name} is rescinded already")
        known_to_guest = not channel.state.is_released and not channel.state.is_rescinded
        # A reserved channel that has outlived its connection: there is nobody to tell, or another kernel, which was not
        # offered it (openvmm tells that one, and its own client would not survive it). Who has it hears when it closes.
        reserved = channel.reserved
        untold = reserved if channel.is_orphan or channel.state is HostChannel.REOFFERED else None
        self._rescind_gpadls(channel)
        self._refuse_open(channel)
        if channel.state is HostChannel.CLOSING and reserved is not None:
            self._send(control.CloseReservedResponse(channel_id=channel.channel_id), reserved.target)
        self._not_in_use(channel)
        channel.reserved = untold
        if known_to_guest and untold is None:
            self._tell(control.RescindChannelOffer(channel_id=channel.channel_id))
        if _step(channel, Step.RESCIND, IllegalChannelState) is HostChannel.GONE:
            self._remove(channel)

    def _refuse_open(self, channel: Channel) -> None:
        request = channel.reopen if channel.state is HostChannel.REOPENING else channel.request
        if channel.state in (HostChannel.OPENING, HostChannel.REOPENING) and request is not None:
            status = Status.UNSUCCESSFUL
            result = control.OpenResult(channel_id=channel.channel_id, open_id=request.open_id, status=status)
            self._send(result, channel.answers_to)

    def _on_rel_id_released(self, body: control.RelIdReleased) -> None:
        self._release(self.offers.named_by_guest(body.channel_id), Step.RELEASE)

    def _release(self, channel: Channel, step: Step) -> None:
        """The guest lets go of a channel: with RELEASE it says so, with DISCONNECT or RESET it has no choice."""
        before = channel.state
        after = advance(HOST_CHANNEL, before, step, IllegalChannelState, channel.name)
        if before is HostChannel.OPEN:
            # Before the memory goes.
            self._emit(CloseRequested(channel.channel_id))
        self._release_gpadls(channel)
        channel.state = after
        channel.modifying, channel.pending_vp = False, None
        if after is HostChannel.GONE:
            self._remove(channel)
        elif after is HostChannel.OFFERED:
            self._emit(ChannelReleased(channel.channel_id, gone=False))
            self._send_offer(channel)
        if after is HostChannel.RELEASED:
            channel.forget_requests()
        if after.is_released and not before.is_released:
            self._emit(ChannelReleased(channel.channel_id, gone=False))

    def _remove(self, channel: Channel) -> None:
        self.offers.remove(channel)
        self._emit(ChannelReleased(channel.channel_id, gone=True))
