"""What the card answers to OID queries, and what sets do to it.

Sources: openvmm ``netvsp/src/lib.rs`` (``handle_oid_query``, ``handle_oid_set`` and what it calls); Linux 6.12
``drivers/net/hyperv/rndis_filter.c`` (what netvsc asks and accepts).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from vmbus.errors import VmbusError
from vmbus.wire.ndis import (
    ENCAPSULATION_802_3,
    Ipv4Checksums,
    Ipv6Checksums,
    Ipv6LargeSend,
    NdisLinkSpeed,
    NdisLinkState,
    NdisMediaConnectState,
    NdisObjectHeader,
    NdisObjectType,
    NdisOffload3,
    NdisOffloadEncapsulation,
    NdisOffloadParameters,
    NdisOffloadParameters3,
    NdisReceiveScaleCapabilities,
    NdisReceiveScaleParameters,
    NdisStatus,
    OffloadChecksum,
    OffloadSwitch,
    RssCapabilities,
    RssFlags,
)
from vmbus.wire.rndis_oid import HardwareStatus, MacOptions, MediaConnectStatus, Medium, Oid, PacketFilter
from vmbus.wire.rndis_oid_formats import OidConfigParameter, OidPacketFilter
from vmbus.wire.schema import Format, WireError

LARGEST_SEND: Final = 0xF53C
"""Bytes of the longest frame to be cut into segments; the same as vmswitch's."""

RECEIVE_TABLE_ENTRIES: Final = 128
VENDOR: Final = 0x00155D
"""The vendor id is the prefix of Microsoft's Ethernet addresses."""

BUFFER_SPACE: Final = 256 << 10
"""Means nothing for a virtual card; what vmswitch says."""

_KEY_SIZE: Final = 40


class OidError(VmbusError):
    """A query or set that fails, with the status that says so. It fails the request, not the channel."""

    def __init__(self, status: NdisStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


ALL_RECEIVE_CHECKSUMS: Final = (True, True, True, True)
"""A guest that takes the host's word for every checksum: TCP and UDP over IPv4, TCP and UDP over IPv6."""


@dataclass(slots=True)
class Offloads:
    """Which offloads are on."""

    checksum: bool = False
    """TCP and UDP checksums of what the guest sends are filled in here."""
    large_send_ipv4: bool = False
    large_send_ipv6: bool = False
    coalescing_ipv4: bool = False
    """Receive segment coalescing: TCP segments for the guest come as one frame."""
    coalescing_ipv6: bool = False
    receive_checksums: tuple[bool, ...] = (False, False, False, False)
    """Whether the guest takes our word for checksums of TCP and UDP over IPv4, and of TCP and UDP over IPv6."""


@dataclass(slots=True)
class CardState:
    """What OIDs read and change."""

    mac: bytes
    frame_size: int = 1514
    """Bytes of the longest frame, Ethernet header included."""
    link_speed: int = 10_000_000_000
    """bit/s"""
    link_up: bool = True
    queues: int = 1
    """The most channels, the primary one included."""
    name: str = "Network Adapter"
    filter: PacketFilter = field(default_factory=lambda: PacketFilter(0))
    supported: Offloads = field(default_factory=Offloads)
    enabled: Offloads = field(default_factory=Offloads)
    receive_table: tuple[int, ...] = ()
    """Queue by hash, when receive side scaling is on."""
    frames_sent: int = 0
    frames_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    dropped: int = 0


def query(card: CardState, oid: Oid) -> bytes:
    """The answer to a query, as bytes; :class:`OidError` if there is none."""
    answer = _ANSWERS.get(oid)
    if answer is None:
        raise OidError(NdisStatus.NOT_SUPPORTED, f"{oid} cannot be queried")
    found = answer(card)
    return found.build() if isinstance(found, Format) else found


def set_value(card: CardState, oid: Oid, information: Format | bytes) -> None:
    """Apply a set; :class:`OidError` if it cannot be."""
    apply = _SETS.get(oid)
    if apply is None:
        raise OidError(NdisStatus.NOT_SUPPORTED, f"{oid} cannot be set")
    if not isinstance(information, Format):
        raise OidError(NdisStatus.INVALID_LENGTH, f"{len(information)} bytes are no value of {oid}")
    apply(card, information)


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def offload_object(offloads: Offloads) -> NdisOffload3:
    """What can be offloaded, or what is, as NDIS says it (revision 3)."""
    ipv4 = Ipv4Checksums.IP_OPTIONS | Ipv4Checksums.TCP_OPTIONS | Ipv4Checksums.TCP | Ipv4Checksums.UDP
    ipv6 = Ipv6Checksums.EXTENSION_HEADERS | Ipv6Checksums.TCP_OPTIONS | Ipv6Checksums.TCP | Ipv6Checksums.UDP
    offload = NdisOffload3(
        header=NdisObjectHeader(object_type=NdisObjectType.OFFLOAD, revision=3, size=NdisOffload3.SIZE)
    )
    if offloads.checksum:
        offload = offload.replace(
            checksum_ipv4_transmit_encapsulation=ENCAPSULATION_802_3,
            checksum_ipv4_transmit=ipv4,
            checksum_ipv4_receive_encapsulation=ENCAPSULATION_802_3,
            checksum_ipv4_receive=ipv4 | Ipv4Checksums.IP,
            checksum_ipv6_transmit_encapsulation=ENCAPSULATION_802_3,
            checksum_ipv6_transmit=ipv6,
            checksum_ipv6_receive_encapsulation=ENCAPSULATION_802_3,
            checksum_ipv6_receive=ipv6,
        )
    if offloads.large_send_ipv4:
        offload.lso_v2_ipv4_encapsulation = ENCAPSULATION_802_3
        offload.lso_v2_ipv4_max_size = LARGEST_SEND
        offload.lso_v2_ipv4_min_segments = 2
    if offloads.large_send_ipv6:
        offload.lso_v2_ipv6_encapsulation = ENCAPSULATION_802_3
        offload.lso_v2_ipv6_max_size = LARGEST_SEND
        offload.lso_v2_ipv6_min_segments = 2
        offload.lso_v2_ipv6 = Ipv6LargeSend.EXTENSION_HEADERS | Ipv6LargeSend.TCP_OPTIONS
    offload.rsc_ipv4 = int(offloads.coalescing_ipv4)
    offload.rsc_ipv6 = int(offloads.coalescing_ipv6)
    return offload


def _link_state(card: CardState) -> Format:
    connected, disconnected = NdisMediaConnectState.CONNECTED, NdisMediaConnectState.DISCONNECTED
    return NdisLinkState(
        header=NdisObjectHeader(object_type=NdisObjectType.DEFAULT, revision=1, size=NdisLinkState.SIZE),
        media_connect_state=connected if card.link_up else disconnected,
        transmit_link_speed=card.link_speed,
        receive_link_speed=card.link_speed,
    )


def _scaling(card: CardState) -> Format:
    return NdisReceiveScaleCapabilities(
        header=NdisObjectHeader(
            object_type=NdisObjectType.RSS_CAPABILITIES, revision=2, size=NdisReceiveScaleCapabilities.SIZE
        ),
        capabilities=RssCapabilities.TOEPLITZ | RssCapabilities.HASH_TYPE_TCP_IPV4 | RssCapabilities.HASH_TYPE_TCP_IPV6,
        number_of_interrupt_messages=1,
        number_of_receive_queues=card.queues,
        number_of_indirection_table_entries=RECEIVE_TABLE_ENTRIES,
    )


def _encapsulation(card: CardState) -> Format:
    return NdisOffloadEncapsulation(
        header=NdisObjectHeader(
            object_type=NdisObjectType.OFFLOAD_ENCAPSULATION, revision=1, size=NdisOffloadEncapsulation.SIZE
        ),
        ipv4_enabled=1,
        ipv6_enabled=1,
    )


def _media_status(card: CardState) -> bytes:
    return _u32(MediaConnectStatus.CONNECTED if card.link_up else MediaConnectStatus.DISCONNECTED)


def _supported(card: CardState) -> bytes:
    return b"".join(_u32(oid) for oid in sorted({*_ANSWERS, *_SETS}))


_MAC_OPTIONS: Final = (
    MacOptions.COPY_LOOKAHEAD_DATA
    | MacOptions.TRANSFERS_NOT_PEND
    | MacOptions.NO_LOOPBACK
    | MacOptions.IEEE_8021P_PRIORITY
    | MacOptions.IEEE_8021Q_VLAN
)

_ANSWERS: Final[dict[int, Callable[[CardState], Format | bytes]]] = {
    Oid.GEN_SUPPORTED_LIST: _supported,
    Oid.GEN_HARDWARE_STATUS: lambda card: _u32(HardwareStatus.READY),
    Oid.GEN_MEDIA_SUPPORTED: lambda card: _u32(Medium.IEEE_802_3),
    Oid.GEN_MEDIA_IN_USE: lambda card: _u32(Medium.IEEE_802_3),
    Oid.GEN_MAXIMUM_LOOKAHEAD: lambda card: _u32(card.frame_size - 14),
    Oid.GEN_CURRENT_LOOKAHEAD: lambda card: _u32(card.frame_size - 14),
    Oid.GEN_MAXIMUM_FRAME_SIZE: lambda card: _u32(card.frame_size - 14),
    Oid.GEN_MAXIMUM_TOTAL_SIZE: lambda card: _u32(card.frame_size),
    Oid.GEN_TRANSMIT_BLOCK_SIZE: lambda card: _u32(card.frame_size),
    Oid.GEN_RECEIVE_BLOCK_SIZE: lambda card: _u32(card.frame_size),
    Oid.GEN_LINK_SPEED: lambda card: _u32(min(card.link_speed // 100, 0xFFFFFFFF)),
    Oid.GEN_TRANSMIT_BUFFER_SPACE: lambda card: _u32(BUFFER_SPACE),
    Oid.GEN_RECEIVE_BUFFER_SPACE: lambda card: _u32(BUFFER_SPACE),
    Oid.GEN_VENDOR_ID: lambda card: _u32(VENDOR),
    Oid.GEN_VENDOR_DESCRIPTION: lambda card: b"VMBus laboratory",
    Oid.GEN_VENDOR_DRIVER_VERSION: lambda card: (0x0100).to_bytes(2, "little"),
    Oid.GEN_DRIVER_VERSION: lambda card: (0x0100).to_bytes(2, "little"),
    Oid.GEN_CURRENT_PACKET_FILTER: lambda card: _u32(card.filter),
    Oid.GEN_MAC_OPTIONS: lambda card: _u32(_MAC_OPTIONS),
    Oid.GEN_MEDIA_CONNECT_STATUS: _media_status,
    Oid.GEN_MAXIMUM_SEND_PACKETS: lambda card: _u32(0xFFFFFFFF),
    Oid.GEN_FRIENDLY_NAME: lambda card: (card.name[:255] + "\0").encode("utf-16-le"),
    Oid.GEN_LINK_STATE: _link_state,
    Oid.GEN_MAX_LINK_SPEED: lambda card: NdisLinkSpeed(transmit=card.link_speed, receive=card.link_speed),
    Oid.GEN_XMIT_OK: lambda card: _u32(card.frames_sent & 0xFFFFFFFF),
    Oid.GEN_RCV_OK: lambda card: _u32(card.frames_received & 0xFFFFFFFF),
    Oid.GEN_XMIT_ERROR: lambda card: _u32(0),
    Oid.GEN_RCV_ERROR: lambda card: _u32(0),
    Oid.GEN_RCV_NO_BUFFER: lambda card: _u32(card.dropped & 0xFFFFFFFF),
    Oid.GEN_BYTES_RCV: lambda card: _u64(card.bytes_received),
    Oid.GEN_BYTES_XMIT: lambda card: _u64(card.bytes_sent),
    Oid.GEN_RECEIVE_SCALE_CAPABILITIES: _scaling,
    Oid.IEEE_802_3_PERMANENT_ADDRESS: lambda card: card.mac,
    Oid.IEEE_802_3_CURRENT_ADDRESS: lambda card: card.mac,
    Oid.IEEE_802_3_MAXIMUM_LIST_SIZE: lambda card: _u32(0),
    Oid.IEEE_802_3_RCV_ERROR_ALIGNMENT: lambda card: _u32(0),
    Oid.IEEE_802_3_XMIT_ONE_COLLISION: lambda card: _u32(0),
    Oid.IEEE_802_3_XMIT_MORE_COLLISIONS: lambda card: _u32(0),
    Oid.TCP_OFFLOAD_HARDWARE_CAPABILITIES: lambda card: offload_object(card.supported),
    Oid.TCP_OFFLOAD_CURRENT_CONFIG: lambda card: offload_object(card.enabled),
    Oid.OFFLOAD_ENCAPSULATION: _encapsulation,
}


def _set_filter(card: CardState, value: Format) -> None:
    assert isinstance(value, OidPacketFilter)
    card.filter = value.filter


def _set_offloads(card: CardState, value: Format) -> None:
    assert isinstance(value, NdisOffloadParameters)
    if value.lso_v1 == OffloadSwitch.ENABLED:
        raise OidError(NdisStatus.NOT_SUPPORTED, "large send version 1 is not offered")
    checksums = (
        value.tcp_ipv4_checksum, value.udp_ipv4_checksum, value.tcp_ipv6_checksum, value.udp_ipv6_checksum
    )  # fmt: skip
    if any(one != OffloadChecksum.NO_CHANGE for one in checksums):
        on = (OffloadChecksum.TX_RX_ENABLED, OffloadChecksum.TX_ENABLED_RX_DISABLED)
        card.enabled.checksum = card.supported.checksum and any(one in on for one in checksums)
        on = (OffloadChecksum.TX_RX_ENABLED, OffloadChecksum.RX_ENABLED_TX_DISABLED)
        card.enabled.receive_checksums = tuple(
            before if one == OffloadChecksum.NO_CHANGE else card.supported.checksum and one in on
            for before, one in zip(card.enabled.receive_checksums, checksums, strict=True)
        )
    if value.lso_v2_ipv4 != OffloadSwitch.NO_CHANGE:
        card.enabled.large_send_ipv4 = card.supported.large_send_ipv4 and value.lso_v2_ipv4 == OffloadSwitch.ENABLED
    if value.lso_v2_ipv6 != OffloadSwitch.NO_CHANGE:
        card.enabled.large_send_ipv6 = card.supported.large_send_ipv6 and value.lso_v2_ipv6 == OffloadSwitch.ENABLED
    if isinstance(value, NdisOffloadParameters3):
        if value.rsc_ipv4 != OffloadSwitch.NO_CHANGE:
            card.enabled.coalescing_ipv4 = card.supported.coalescing_ipv4 and value.rsc_ipv4 == OffloadSwitch.ENABLED
        if value.rsc_ipv6 != OffloadSwitch.NO_CHANGE:
            card.enabled.coalescing_ipv6 = card.supported.coalescing_ipv6 and value.rsc_ipv6 == OffloadSwitch.ENABLED


def _set_encapsulation(card: CardState, value: Format) -> None:
    assert isinstance(value, NdisOffloadEncapsulation)
    wanted = (
        (value.ipv4_enabled, value.ipv4_encapsulation_type, value.ipv4_header_size),
        (value.ipv6_enabled, value.ipv6_encapsulation_type, value.ipv6_header_size),
    )
    for enabled, encapsulation, header in wanted:
        if enabled == 1 and (encapsulation, header) != (ENCAPSULATION_802_3, 14):
            raise OidError(NdisStatus.NOT_SUPPORTED, f"encapsulation {encapsulation} with headers of {header} bytes")


def _set_parameter(card: CardState, value: Format) -> None:
    assert isinstance(value, OidConfigParameter)
    try:
        name = value.parameter_name.decode("utf-16-le").rstrip("\0")
        text = value.parameter_value.decode("utf-16-le").rstrip("\0")
        if name == "NetworkAddress":
            mac = bytes.fromhex(text)
            if len(mac) != 6 or mac[0] & 1:
                raise ValueError(text)
            card.mac = mac
    except (ValueError, WireError) as error:
        raise OidError(NdisStatus.INVALID_DATA, f"a configuration parameter that makes no sense: {error}") from None


def _set_scaling(card: CardState, value: Format) -> None:
    assert isinstance(value, NdisReceiveScaleParameters)
    if value.flags & RssFlags.DISABLE_RSS or not value.hash_information & 0xFF:
        card.receive_table = ()
        return
    try:
        table, key = value.indirection_table, value.hash_secret_key
    except WireError as error:
        raise OidError(NdisStatus.INVALID_DATA, str(error)) from None
    if not table or len(table) > RECEIVE_TABLE_ENTRIES or len(key) != _KEY_SIZE:
        raise OidError(NdisStatus.INVALID_DATA, f"a receive table of {len(table)} entries, a key of {len(key)} bytes")
    if any(entry.queue >= card.queues for entry in table):
        raise OidError(NdisStatus.INVALID_DATA, f"a receive table that names more than {card.queues} queues")
    card.receive_table = tuple(entry.queue for entry in table)


def _ignore(card: CardState, value: Format) -> None:
    """Accepted: there is nothing for this card to do."""


_SETS: Final[dict[int, Callable[[CardState, Format], None]]] = {
    Oid.GEN_CURRENT_PACKET_FILTER: _set_filter,
    Oid.TCP_OFFLOAD_PARAMETERS: _set_offloads,
    Oid.OFFLOAD_ENCAPSULATION: _set_encapsulation,
    Oid.GEN_RNDIS_CONFIG_PARAMETER: _set_parameter,
    Oid.GEN_RECEIVE_SCALE_PARAMETERS: _set_scaling,
    Oid.GEN_CURRENT_LOOKAHEAD: _ignore,
    Oid.GEN_PROTOCOL_OPTIONS: _ignore,
    Oid.GEN_NETWORK_LAYER_ADDRESSES: _ignore,
    Oid.GEN_LINK_PARAMETERS: _ignore,
    Oid.IEEE_802_3_MULTICAST_LIST: _ignore,
}
