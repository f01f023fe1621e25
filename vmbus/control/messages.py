"""The one table of control messages: number, name, direction, and which variant which connection uses.

A message's variant follows from the negotiated version and features, or, where older programs never said which one
they send, from its size.  Variants stand newest first and the first that fits is taken, as in openvmm.

``parse_message`` is strict and for the two ends of a connection; ``read_message`` is for people who look at
messages from outside, perhaps without having seen the negotiation: it always finds something.

Source: openvmm ``vm/devices/vmbus/vmbus_core/src/protocol.rs`` (``vmbus_messages!``) and ``protocol/macros.rs``;
the short offer: mu_msvm ``VmbusDxe/ChannelMessages.h``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from vmbus.control.errors import MessageTooShort, UnsupportedMessage
from vmbus.wire import control
from vmbus.wire.control_values import FeatureFlags, MessageType, Version
from vmbus.wire.offer import OfferChannel, OfferChannelPre7
from vmbus.wire.schema import Buffer, Format


class Sender(Enum):
    """Who sends a message."""

    HOST = "host"
    GUEST = "guest"


NO_FEATURES = FeatureFlags(0)


@dataclass(frozen=True, slots=True)
class Variant:
    """One form of a message, and when it is used."""

    body: type[Format]
    since: Version | None = None
    """The first version that has it; None: it is also there without a connection."""
    features: FeatureFlags = NO_FEATURES
    """At least one of these is negotiated."""
    by_size: bool = False
    """It is taken only if the message is long enough; otherwise the next variant is tried."""
    asks_for: Version | None = None
    """It is taken only if the message itself asks for this version or a newer one (INITIATE_CONTACT)."""

    def fits(self, body: Buffer, version: Version | None, features: FeatureFlags) -> bool:
        if self.since is not None and (version is None or version < self.since):
            return False
        if self.features and not self.features & features:
            return False
        if self.by_size and len(body) < self.body.SIZE:
            return False
        return self.asks_for is None or int.from_bytes(body[:4], "little") >= self.asks_for


@dataclass(frozen=True, slots=True)
class Message:
    """A row of the table."""

    message_type: MessageType
    sender: Sender
    variants: tuple[Variant, ...]
    purpose: str


def _row(number: int, sender: Sender, purpose: str, *variants: Variant) -> Message:
    return Message(MessageType(number), sender, variants, purpose)


_HOST, _GUEST = Sender.HOST, Sender.GUEST
_V0_13, _V1_1, _V4_0, _V4_1, _V5_2 = Version.V0_13, Version.V1_1, Version.V4_0, Version.V4_1, Version.V5_2
_F = FeatureFlags
_OWN_SIGNAL = _F.GUEST_SPECIFIED_SIGNAL_PARAMETERS | _F.CHANNEL_INTERRUPT_REDIRECTION

MESSAGES: dict[MessageType, Message] = {
    row.message_type: row
    for row in (
        _row(
            1, _HOST, "a channel is there",
            Variant(OfferChannel, _V0_13, by_size=True),
            Variant(OfferChannelPre7, _V0_13),
        ),
        _row(2, _HOST, "a channel goes away", Variant(control.RescindChannelOffer, _V0_13)),
        _row(3, _GUEST, "send me your offers", Variant(control.RequestOffers, _V0_13)),
        _row(4, _HOST, "these were all, for now", Variant(control.AllOffersDelivered, _V0_13)),
        _row(
            5, _GUEST, "open a channel",
            Variant(control.OpenChannel2, Version.V6_0, _OWN_SIGNAL),
            Variant(control.OpenChannel, _V0_13),
        ),
        _row(6, _HOST, "answers 5 and 18", Variant(control.OpenResult, _V0_13)),
        _row(7, _GUEST, "close a channel", Variant(control.CloseChannel, _V0_13)),
        _row(8, _GUEST, "share memory", Variant(control.GpadlHeader, _V0_13)),
        _row(9, _GUEST, "continues 8", Variant(control.GpadlBody, _V0_13)),
        _row(10, _HOST, "answers 8", Variant(control.GpadlCreated, _V0_13)),
        _row(11, _GUEST, "stop using shared memory", Variant(control.GpadlTeardown, _V0_13)),
        _row(12, _HOST, "answers 11", Variant(control.GpadlTorndown, _V0_13)),
        _row(13, _GUEST, "a channel id is free again", Variant(control.RelIdReleased, _V0_13)),
        _row(
            14, _GUEST, "let us speak this version",
            Variant(control.InitiateContact6, by_size=True, asks_for=Version.V5_0),
            Variant(control.InitiateContact5, asks_for=Version.V5_0),
            Variant(control.InitiateContact),
        ),
        _row(
            15, _HOST, "answers 14",
            Variant(control.VersionResponse3, by_size=True),
            Variant(control.VersionResponse2, by_size=True),
            Variant(control.VersionResponse),
        ),
        _row(16, _GUEST, "end the connection", Variant(control.Unload)),
        _row(17, _HOST, "answers 16", Variant(control.UnloadComplete, _V1_1)),
        _row(18, _GUEST, "open a channel outside the connection", Variant(control.OpenReservedChannel, _V4_0)),
        _row(19, _GUEST, "close it", Variant(control.CloseReservedChannel)),
        _row(20, _HOST, "answers 19", Variant(control.CloseReservedResponse, _V4_0)),
        _row(
            21, _GUEST, "connect a socket to the host",
            Variant(control.TlConnectRequest2, _V5_2, by_size=True),
            Variant(control.TlConnectRequest, _V4_0),
        ),
        _row(22, _GUEST, "interrupt another processor", Variant(control.ModifyChannel, _V4_1)),
        _row(23, _HOST, "refuses 21", Variant(control.TlConnectResult, _V4_1)),
        _row(24, _HOST, "answers 22", Variant(control.ModifyChannelResponse, Version.V5_3)),
        _row(
            25, _GUEST, "use other monitor pages",
            Variant(control.ModifyConnection, Version.V6_0, _F.MODIFY_CONNECTION),
        ),
        _row(
            26, _HOST, "answers 25",
            Variant(control.ModifyConnectionResponse, Version.V6_0, _F.MODIFY_CONNECTION),
        ),
        _row(27, _GUEST, "be silent", Variant(control.Pause, Version.V6_0, _F.PAUSE_RESUME)),
        _row(28, _HOST, "answers 27", Variant(control.PauseResponse, Version.V6_0, _F.PAUSE_RESUME)),
        _row(29, _GUEST, "speak again", Variant(control.Resume, Version.V6_0, _F.PAUSE_RESUME)),
    )
}  # fmt: skip

_TYPES: dict[type[Format], MessageType] = {
    variant.body: row.message_type for row in MESSAGES.values() for variant in row.variants
}
_HEADER = control.MessageHeader.SIZE


class ControlMessage(NamedTuple):
    """A parsed control message: everything that was in its bytes, and nothing else."""

    message_type: MessageType
    body: Format
    trailing: bytes = b""
    """What came behind the fields; some guests always send the full size."""
    padding: int = 0
    """The unused half of the header."""

    def build(self) -> bytes:
        """The bytes again, identical to those parsed."""
        header = control.MessageHeader(message_type=self.message_type, padding=self.padding)
        return header.build() + self.body.build() + self.trailing


def build_message(body: Format) -> bytes:
    """The bytes of a message with this body; its number follows from the body's class."""
    return control.MessageHeader(message_type=_TYPES[type(body)]).build() + body.build()


def sent_in(message_type: MessageType, version: Version, features: FeatureFlags = NO_FEATURES) -> bool:
    """Whether a connection of this version and these features has the message at all."""
    return any(
        (variant.since is None or version >= variant.since) and (not variant.features or variant.features & features)
        for variant in MESSAGES[message_type].variants
    )


def _parse_as(variant: Variant, header: control.MessageHeader, body: Buffer) -> ControlMessage:
    parsed, end = variant.body.parse_prefix(body)
    return ControlMessage(header.message_type, parsed, bytes(body[end:]), header.padding)


def parse_message(
    payload: Buffer, version: Version | None = None, features: FeatureFlags = NO_FEATURES
) -> ControlMessage:
    """Parse a message of a connection of this version; without a version only what may come without a connection.

    Raises ``MessageTooShort``, and ``UnsupportedMessage`` for what this connection does not have.
    """
    if len(payload) < _HEADER:
        raise MessageTooShort(f"a control message of {len(payload)} bytes has no header")
    header = control.MessageHeader.parse(payload)
    body = payload[_HEADER:]
    row = MESSAGES.get(header.message_type)
    for variant in row.variants if row else ():
        if not variant.fits(body, version, features):
            continue
        if len(body) < variant.body.SIZE:
            raise MessageTooShort(f"{header.message_type} has {len(body)} bytes and needs {variant.body.SIZE}")
        return _parse_as(variant, header, body)
    spoken = f"at version {version.number}" if version is not None else "without a connection"
    raise UnsupportedMessage(f"{header.message_type} is not known {spoken}")


def read_message(
    payload: Buffer, version: Version | None = None, features: FeatureFlags | None = None
) -> ControlMessage:
    """Parse a message as well as can be, with or without knowing what was negotiated; for analyzers.

    If version and features do not decide, the size does: a variant of exactly this size, else the longest that fits.
    A message that nobody knows, or that is too short for its fields, keeps its bytes as ``UnknownMessage``.  Raises
    ``MessageTooShort`` only if there is no header.
    """
    if version is not None:
        try:
            return parse_message(payload, version, NO_FEATURES if features is None else features)
        except UnsupportedMessage:
            pass  # it was sent all the same, and somebody wants to see it
        except MessageTooShort:
            if len(payload) < _HEADER:
                raise
    if len(payload) < _HEADER:
        raise MessageTooShort(f"a control message of {len(payload)} bytes has no header")
    header = control.MessageHeader.parse(payload)
    body = payload[_HEADER:]
    row = MESSAGES.get(header.message_type)
    fitting = [v for v in (row.variants if row else ()) if len(body) >= v.body.SIZE and _asks_for(v, body)]
    if not fitting:
        return ControlMessage(header.message_type, control.UnknownMessage(content=bytes(body)), b"", header.padding)
    exact = [variant for variant in fitting if len(body) == variant.body.SIZE]
    best = exact[0] if exact else max(fitting, key=lambda variant: variant.body.SIZE)
    return _parse_as(best, header, body)


def _asks_for(variant: Variant, body: Buffer) -> bool:
    return variant.asks_for is None or int.from_bytes(body[:4], "little") >= variant.asks_for
