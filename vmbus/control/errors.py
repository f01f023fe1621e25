"""The rules of the control plane, one error class for each, so that each can be named, counted and looked for.

A :class:`Violation` is about the peer: it never leaves ``receive``, it becomes a ``ProtocolViolation`` event, and its
``advice`` says what was done and what to look at.  A :class:`Misuse` is about our own caller, and is raised.

Source: openvmm ``vmbus_server/src/channels.rs`` (``ChannelError``, ``OfferError``).
"""

from __future__ import annotations

from typing import ClassVar

from vmbus.errors import VmbusError


class ControlError(VmbusError):
    """A rule of the control plane is broken."""


class Misuse(ControlError):
    """The caller asked for something that makes no sense in this state."""


class UnknownChannelId(Misuse):
    """No such channel is offered."""


class AlreadyOffered(Misuse):
    """A channel with this interface, instance and subchannel index is offered already."""


class TooManyChannels(Misuse):
    """All 2,047 channel ids are in use."""


class WrongState(Misuse):
    """The connection, channel or GPADL is not in a state for this."""


class NotNegotiated(Misuse):
    """The connection's version or features do not have this."""


class BadSavedState(ControlError):
    """A saved state that cannot be restored: damaged, newer than this program, or of other devices."""


class Violation(ControlError):
    """What the peer sent breaks a rule."""

    advice: ClassVar[str] = "The message was dropped."


class MessageTooShort(Violation):
    """The message ends before its fields do."""

    advice = "The message was dropped; look at its size and at the negotiated version and features."


class UnsupportedMessage(Violation):
    """A message that the connection, as it was negotiated, does not have."""

    advice = "The message was dropped; look at the negotiated version and features, and whether there is a connection."


class WrongDirection(Violation):
    """A message that only the other end sends."""

    advice = "The message was dropped; look for messages that are reflected to their sender."


class MalformedMessage(Violation):
    """The fields of a message contradict each other."""


class UnknownChannel(Violation):
    """A channel id that is not offered."""

    advice = "The message was dropped; look for a use of a channel before its offer or after its release."


class ChannelReleased(Violation):
    """A channel that the guest has already released."""

    advice = "The message was dropped; look for a use of a channel after REL_ID_RELEASED or UNLOAD."


class ChannelAlreadyOpen(Violation):
    """An open request for a channel that is open or opening."""

    advice = "The message was dropped and the channel stays open; look for two drivers on one channel."


class InvalidSignalParameters(Violation):
    """An open request with an event flag that does not exist, or a connection id that another channel uses."""

    advice = "The channel was not opened; look at the event flag and connection id that the guest chose."


class ChannelNotOpen(Violation):
    """A close request for a channel that is not open."""

    advice = "The message was dropped; look for a close that crossed its open, or for two closes."


class IllegalChannelState(Violation):
    """A request that the channel's state does not allow."""

    advice = "The request was refused; look at the channel's earlier messages."


class ChannelReserved(Violation):
    """An ordinary request for a channel that is open as a reserved one."""

    advice = "The request was refused; a reserved channel is closed with CLOSE_RESERVED_CHANNEL."


class ChannelNotReserved(Violation):
    """CLOSE_RESERVED_CHANNEL for a channel that was opened in the ordinary way."""

    advice = "The message was dropped; such a channel is closed with CLOSE_CHANNEL."


class UnknownGpadl(Violation):
    """A GPADL id that does not exist on the channel."""

    advice = "The message was dropped; look for a teardown sent twice, or a body after a refused header."


class DuplicateGpadl(Violation):
    """A GPADL id that is in use."""

    advice = "The GPADL was refused; look for ids that are reused before GPADL_TORNDOWN."


class IllegalGpadlState(Violation):
    """A teardown of a GPADL that is not complete or already being torn down."""

    advice = "The message was dropped; look for a teardown before GPADL_CREATED."


class MalformedGpadl(Violation):
    """Page ranges that contradict their header or themselves."""

    advice = "The GPADL was refused; look at its counts, lengths and offsets."


class TooManyGpadls(Violation):
    """More pages are announced than the host is willing to remember."""

    advice = "The GPADL was refused; look for GPADLs that are never torn down."


class OffersAlreadySent(Violation):
    """REQUEST_OFFERS a second time on one connection."""

    advice = "The message was dropped; offers that come later are sent by themselves."


class UntrustedMessage(Violation):
    """A message through the untrusted synic for a connection that was made through the trusted one."""

    advice = "The message was dropped; a confidential guest must talk to its paravisor only."


class MessageWhilePaused(Violation):
    """A message other than RESUME, UNLOAD or INITIATE_CONTACT after PAUSE."""

    advice = "The message was dropped; the peer asked for silence and must resume first."


class MessageDuringReset(Violation):
    """A message while the virtual machine is being reset."""

    advice = "The message was dropped; deliver none until the reset is finished."


class InvalidTargetVp(Violation):
    """MODIFY_CHANNEL cannot disable interrupts."""

    advice = "The request was refused; interrupts are disabled when the channel is opened."


class InterruptsDisabled(Violation):
    """MODIFY_CHANNEL for a channel that was opened without interrupts."""

    advice = "The request was refused; reopen the channel with a target processor."


class ModifyInProgress(Violation):
    """A second modification before the first one is answered."""

    advice = "The request was dropped; from 5.3 on each modification waits for its response."


class BadMonitorPages(Violation):
    """One monitor page without the other, pages outside memory, or a change of pages that the host provides."""

    advice = "The request was refused; give both monitor pages or none."


class UnsolicitedMessage(Violation):
    """An answer to a question that was not asked, or an offer that was not due."""

    advice = "The message was dropped; look for answers sent twice."


class DuplicateOffer(Violation):
    """An offer with a channel id that is in use."""

    advice = "The offer was dropped; look for ids that are reused before REL_ID_RELEASED."


class InvalidChannelId(Violation):
    """A channel id that is no event flag: 0, or beyond 2047."""

    advice = "The message was dropped; look at how the host numbers its channels."
