"""What RNDIS queries ask and answer and sets say, by OID.

``OIDS`` is the table: for each OID the format of a query's input, of its answer and of a set. A query's answer does
not repeat the OID, so whoever decodes one has to remember the query by its request id.

Sources: openvmm ``netvsp/src/lib.rs`` (``handle_oid_query``: what each holds) and ``rndisprot.rs``; Linux 6.12
``drivers/net/hyperv/rndis_filter.c`` (what netvsc asks); MS-RNDIS 2.2.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from vmbus.wire import ndis
from vmbus.wire.rndis_oid import (
    HardwareStatus,
    MacOptions,
    MediaConnectStatus,
    Medium,
    Oid,
    PacketFilter,
    ParameterType,
)
from vmbus.wire.schema import Format, items, located, raw, rest, u16, u32, u64


class OidNumber(Format):
    """A number."""

    value: int = u32()


class OidShortNumber(Format):
    """A number of two bytes: a driver version, major in the high byte."""

    value: int = u16()


class OidLongNumber(Format):
    """A counter of eight bytes."""

    value: int = u64()


class OidBytes(Format):
    """A size."""

    size: int = u32(unit="bytes")


class OidList(Format):
    """OID_GEN_SUPPORTED_LIST."""

    oids: tuple[Oid, ...] = items(u32(Oid))


class OidHardwareStatus(Format):
    """OID_GEN_HARDWARE_STATUS."""

    status: HardwareStatus = u32(HardwareStatus)


class OidMedium(Format):
    """OID_GEN_MEDIA_SUPPORTED and OID_GEN_MEDIA_IN_USE."""

    medium: Medium = u32(Medium)


class OidLinkSpeed(Format):
    """OID_GEN_LINK_SPEED."""

    speed: int = u32(unit="100 bit/s")


class OidPacketFilter(Format):
    """OID_GEN_CURRENT_PACKET_FILTER."""

    filter: PacketFilter = u32(PacketFilter)


class OidMacOptions(Format):
    """OID_GEN_MAC_OPTIONS."""

    options: MacOptions = u32(MacOptions)


class OidMediaConnectStatus(Format):
    """OID_GEN_MEDIA_CONNECT_STATUS."""

    status: MediaConnectStatus = u32(MediaConnectStatus)


class OidVendorDescription(Format):
    """OID_GEN_VENDOR_DESCRIPTION: text, not always with a NUL behind it."""

    description: bytes = rest(text="ascii")


class OidFriendlyName(Format):
    """OID_GEN_FRIENDLY_NAME: up to 255 UTF-16 characters and a zero."""

    name: bytes = rest(text="utf-16-le")


class OidMacAddress(Format):
    """An Ethernet address."""

    address: bytes = raw(6)


class OidMacAddresses(Format):
    """OID_802_3_MULTICAST_LIST."""

    addresses: tuple[OidMacAddress, ...] = items(OidMacAddress)


class OidNetworkAddresses(Format):
    """OID_GEN_NETWORK_LAYER_ADDRESSES: the addresses that a guest's network layers use (``NETWORK_ADDRESS_LIST``)."""

    address_count: int = u32()
    address_type: int = u16(doc="NDIS protocol id; 2: TCP/IP")
    addresses: bytes = rest(doc="of each address: u16 length, u16 type, the address")


class OidConfigParameter(Format):
    """OID_GEN_RNDIS_CONFIG_PARAMETER: a registry value of the card by its name, e.g. ``NetworkAddress``."""

    parameter_name_offset: int = u32(default=20, unit="bytes")
    parameter_name_length: int = u32(unit="bytes")
    parameter_type: ParameterType = u32(ParameterType)
    parameter_value_offset: int = u32(unit="bytes")
    parameter_value_length: int = u32(unit="bytes")
    strings: bytes = rest(doc="name and value, where the offsets say")
    parameter_name: bytes = located(offset="parameter_name_offset", length="parameter_name_length", text="utf-16-le")
    parameter_value: bytes = located(offset="parameter_value_offset", length="parameter_value_length", text="utf-16-le")


class LinkParameters(Format):
    """OID_GEN_LINK_PARAMETERS (``NDIS_LINK_PARAMETERS``)."""

    media_duplex_state: int = u32()
    transmit_link_speed: int = u64(unit="bit/s")
    receive_link_speed: int = u64(unit="bit/s")
    pause_functions: int = u32()
    auto_negotiation_flags: int = u32()


Formats = type[Format] | tuple[type[Format], ...]
"""One format, or several of different sizes: the largest whose head fits is meant."""

OFFLOADS: Final = (ndis.NdisOffload, ndis.NdisOffload2, ndis.NdisOffload3, ndis.NdisOffload5)
_RSS_CAPABILITIES: Final = (ndis.NdisReceiveScaleCapabilities, ndis.NdisReceiveScaleCapabilities3)


class OidFormats(NamedTuple):
    """The formats of one OID; None where it cannot be asked, or set, or asked with an input."""

    answer: Formats | None = None
    set: Formats | None = None
    query: Formats | None = None


def _answers(formats: Formats, *oids: Oid) -> dict[int, OidFormats]:
    return {int(oid): OidFormats(answer=formats) for oid in oids}


OIDS: Final[dict[int, OidFormats]] = {
    # Statistics are numbers of four bytes where nothing else is said.
    **{int(oid): OidFormats(answer=(OidNumber, OidLongNumber)) for oid in Oid if oid >> 16 in (0x0002, 0x0102)},
    **_answers(OidLongNumber, Oid.GEN_BYTES_RCV, Oid.GEN_BYTES_XMIT, Oid.GEN_RCV_DISCARDS, Oid.GEN_XMIT_DISCARDS),
    **_answers(OidList, Oid.GEN_SUPPORTED_LIST),
    **_answers(OidHardwareStatus, Oid.GEN_HARDWARE_STATUS),
    **_answers(OidMedium, Oid.GEN_MEDIA_SUPPORTED, Oid.GEN_MEDIA_IN_USE),
    **_answers(
        OidBytes,
        Oid.GEN_MAXIMUM_LOOKAHEAD,
        Oid.GEN_MAXIMUM_FRAME_SIZE,
        Oid.GEN_TRANSMIT_BUFFER_SPACE,
        Oid.GEN_RECEIVE_BUFFER_SPACE,
        Oid.GEN_TRANSMIT_BLOCK_SIZE,
        Oid.GEN_RECEIVE_BLOCK_SIZE,
        Oid.GEN_MAXIMUM_TOTAL_SIZE,
    ),
    **_answers(OidLinkSpeed, Oid.GEN_LINK_SPEED),
    **_answers(
        OidNumber,
        Oid.GEN_VENDOR_ID,
        Oid.GEN_MAXIMUM_SEND_PACKETS,
        Oid.GEN_MEDIA_CAPABILITIES,
        Oid.GEN_PHYSICAL_MEDIUM,
        Oid.IEEE_802_3_MAXIMUM_LIST_SIZE,
        Oid.IEEE_802_3_MAC_OPTIONS,
    ),
    **_answers(OidVendorDescription, Oid.GEN_VENDOR_DESCRIPTION),
    **_answers((OidShortNumber, OidNumber), Oid.GEN_DRIVER_VERSION, Oid.GEN_VENDOR_DRIVER_VERSION),
    **_answers(OidMacOptions, Oid.GEN_MAC_OPTIONS),
    **_answers(OidMediaConnectStatus, Oid.GEN_MEDIA_CONNECT_STATUS),
    **_answers(ndis.NdisLinkState, Oid.GEN_LINK_STATE),
    **_answers(ndis.NdisLinkSpeed, Oid.GEN_MAX_LINK_SPEED),
    **_answers(OidFriendlyName, Oid.GEN_FRIENDLY_NAME),
    **_answers(OidMacAddress, Oid.IEEE_802_3_PERMANENT_ADDRESS, Oid.IEEE_802_3_CURRENT_ADDRESS),
    Oid.GEN_CURRENT_PACKET_FILTER: OidFormats(answer=OidPacketFilter, set=OidPacketFilter),
    Oid.GEN_CURRENT_LOOKAHEAD: OidFormats(answer=OidBytes, set=OidBytes),
    Oid.GEN_PROTOCOL_OPTIONS: OidFormats(answer=OidNumber, set=OidNumber),
    Oid.GEN_NETWORK_LAYER_ADDRESSES: OidFormats(set=OidNetworkAddresses),
    Oid.GEN_LINK_PARAMETERS: OidFormats(set=LinkParameters),
    Oid.GEN_RNDIS_CONFIG_PARAMETER: OidFormats(set=OidConfigParameter),
    Oid.IEEE_802_3_MULTICAST_LIST: OidFormats(answer=OidMacAddresses, set=OidMacAddresses),
    Oid.IEEE_802_3_ADD_MULTICAST_ADDRESS: OidFormats(set=OidMacAddress),
    Oid.IEEE_802_3_DELETE_MULTICAST_ADDRESS: OidFormats(set=OidMacAddress),
    Oid.GEN_RECEIVE_SCALE_CAPABILITIES: OidFormats(answer=_RSS_CAPABILITIES, query=_RSS_CAPABILITIES),
    Oid.GEN_RECEIVE_SCALE_PARAMETERS: OidFormats(
        answer=ndis.NdisReceiveScaleParameters, set=ndis.NdisReceiveScaleParameters
    ),
    Oid.TCP_OFFLOAD_CURRENT_CONFIG: OidFormats(answer=OFFLOADS, query=OFFLOADS),
    Oid.TCP_OFFLOAD_HARDWARE_CAPABILITIES: OidFormats(answer=OFFLOADS, query=OFFLOADS),
    Oid.TCP_OFFLOAD_PARAMETERS: OidFormats(
        set=(ndis.NdisOffloadParameters, ndis.NdisOffloadParameters2, ndis.NdisOffloadParameters3)
    ),
    Oid.OFFLOAD_ENCAPSULATION: OidFormats(answer=ndis.NdisOffloadEncapsulation, set=ndis.NdisOffloadEncapsulation),
}
"""What is known of each OID."""

OID_QUERIES: Final[dict[int, Formats]] = {oid: known.query for oid, known in OIDS.items() if known.query is not None}
"""Input of a query, by OID; most have none."""

OID_ANSWERS: Final[dict[int, Formats]] = {oid: known.answer for oid, known in OIDS.items() if known.answer is not None}
"""Answer to a query, by OID."""

OID_SETS: Final[dict[int, Formats]] = {oid: known.set for oid, known in OIDS.items() if known.set is not None}
"""Input of a set, by OID."""
