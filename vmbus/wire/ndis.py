"""NDIS: status codes, and the objects (offloads, receive side scaling, link state) that RNDIS queries and sets carry.

NDIS is Windows' interface between network drivers. An NDIS object starts with a header of type, revision and size;
later revisions are longer, and a peer of an older NDIS sends and expects the shorter ones, so each revision is a
format.

Sources: openvmm ``netvsp/src/rndisprot.rs``; Linux 6.12 ``drivers/net/hyperv/hyperv_net.h`` (``ndis_offload``,
``ndis_offload_params``, ``ndis_recv_scale_cap``, ``ndis_recv_scale_param``) and ``include/linux/rndis.h`` (status
codes).
"""

from __future__ import annotations

from typing import Final

from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.schema import Format, located, nested, pad, rest, u8, u16, u32, u64

ENCAPSULATION_802_3: Final = 2
"""``NDIS_ENCAPSULATION_IEEE_802_3``."""


class NdisStatus(OpenEnum):
    """How a request went, or what an indication is about."""

    SUCCESS = 0x00000000
    PENDING = 0x00000103
    NOT_RECOGNIZED = 0x00010001
    NOT_COPIED = 0x00010002
    NOT_ACCEPTED = 0x00010003
    CALL_ACTIVE = 0x00010007
    ONLINE = 0x40010003
    RESET_START = 0x40010004
    RESET_END = 0x40010005
    RING_STATUS = 0x40010006
    CLOSED = 0x40010007
    WAN_LINE_UP = 0x40010008
    WAN_LINE_DOWN = 0x40010009
    WAN_FRAGMENT = 0x4001000A
    MEDIA_CONNECT = 0x4001000B
    MEDIA_DISCONNECT = 0x4001000C
    HARDWARE_LINE_UP = 0x4001000D
    HARDWARE_LINE_DOWN = 0x4001000E
    INTERFACE_UP = 0x4001000F
    INTERFACE_DOWN = 0x40010010
    MEDIA_BUSY = 0x40010011
    MEDIA_SPECIFIC_INDICATION = 0x40010012
    LINK_SPEED_CHANGE = 0x40010013
    NETWORK_CHANGE = 0x40010018
    TASK_OFFLOAD_CURRENT_CONFIG = 0x40020006
    BUFFER_OVERFLOW = 0x80000005
    NOT_RESETTABLE = 0x80010001
    SOFT_ERRORS = 0x80010003
    HARD_ERRORS = 0x80010004
    FAILURE = 0xC0000001
    RESOURCES = 0xC000009A
    NOT_SUPPORTED = 0xC00000BB
    CLOSING = 0xC0010002
    BAD_VERSION = 0xC0010004
    BAD_CHARACTERISTICS = 0xC0010005
    ADAPTER_NOT_FOUND = 0xC0010006
    OPEN_FAILED = 0xC0010007
    DEVICE_FAILED = 0xC0010008
    MULTICAST_FULL = 0xC0010009
    MULTICAST_EXISTS = 0xC001000A
    MULTICAST_NOT_FOUND = 0xC001000B
    REQUEST_ABORTED = 0xC001000C
    RESET_IN_PROGRESS = 0xC001000D
    CLOSING_INDICATING = 0xC001000E
    INVALID_PACKET = 0xC001000F
    OPEN_LIST_FULL = 0xC0010010
    ADAPTER_NOT_READY = 0xC0010011
    ADAPTER_NOT_OPEN = 0xC0010012
    NOT_INDICATING = 0xC0010013
    INVALID_LENGTH = 0xC0010014
    INVALID_DATA = 0xC0010015
    BUFFER_TOO_SHORT = 0xC0010016
    INVALID_OID = 0xC0010017
    ADAPTER_REMOVED = 0xC0010018
    UNSUPPORTED_MEDIA = 0xC0010019
    GROUP_ADDRESS_IN_USE = 0xC001001A
    FILE_NOT_FOUND = 0xC001001B
    ERROR_READING_FILE = 0xC001001C
    ALREADY_MAPPED = 0xC001001D
    RESOURCE_CONFLICT = 0xC001001E
    NO_CABLE = 0xC001001F
    INVALID_SAP = 0xC0010020
    SAP_IN_USE = 0xC0010021
    INVALID_ADDRESS = 0xC0010022
    VC_NOT_ACTIVATED = 0xC0010023
    DEST_OUT_OF_ORDER = 0xC0010024
    VC_NOT_AVAILABLE = 0xC0010025
    CELLRATE_NOT_AVAILABLE = 0xC0010026
    INCOMPATIBLE_QOS = 0xC0010027
    AAL_PARAMS_UNSUPPORTED = 0xC0010028
    NO_ROUTE_TO_DESTINATION = 0xC0010029
    TOKEN_RING_OPEN_ERROR = 0xC0011000


class NdisObjectType(OpenEnum):
    """What an object is."""

    DEFAULT = 0x80
    RSS_CAPABILITIES = 0x88
    RSS_PARAMETERS = 0x89
    OID_REQUEST = 0x96
    OFFLOAD = 0xA7
    OFFLOAD_ENCAPSULATION = 0xA8


class NdisObjectHeader(Format):
    """Heads every NDIS object."""

    object_type: NdisObjectType = u8(NdisObjectType)
    revision: int = u8(default=1)
    size: int = u16(unit="bytes", doc="of the object as its sender knows it")


class NdisMediaConnectState(OpenEnum):
    """``NET_IF_MEDIA_CONNECT_STATE``, which counts otherwise than OID_GEN_MEDIA_CONNECT_STATUS."""

    UNKNOWN = 0
    CONNECTED = 1
    DISCONNECTED = 2


class NdisLinkState(Format):
    """OID_GEN_LINK_STATE."""

    header: NdisObjectHeader = nested(NdisObjectHeader)
    media_connect_state: NdisMediaConnectState = u32(NdisMediaConnectState)
    media_duplex_state: int = u32(default=0, doc="0 unknown, 1 half, 2 full")
    padding: bytes = pad(4, default=b"")
    transmit_link_speed: int = u64(unit="bit/s")
    receive_link_speed: int = u64(unit="bit/s")
    pause_functions: int = u32(default=0)
    auto_negotiation_flags: int = u32(default=0)


class NdisLinkSpeed(Format):
    """OID_GEN_MAX_LINK_SPEED."""

    transmit: int = u64(unit="bit/s")
    receive: int = u64(unit="bit/s")


class Ipv4Checksums(OpenFlags):
    """Checksums that can be offloaded for IPv4; of each pair of bits the low one says "supported"."""

    IP_OPTIONS = 0x001
    TCP_OPTIONS = 0x004
    TCP = 0x010
    UDP = 0x040
    IP = 0x100


class Ipv6Checksums(OpenFlags):
    """Checksums that can be offloaded for IPv6."""

    EXTENSION_HEADERS = 0x001
    TCP_OPTIONS = 0x004
    TCP = 0x010
    UDP = 0x040


class Ipv6LargeSend(OpenFlags):
    """What large sends over IPv6 may carry."""

    EXTENSION_HEADERS = 0x001
    TCP_OPTIONS = 0x004


class NdisOffload(Format):
    """OID_TCP_OFFLOAD_HARDWARE_CAPABILITIES and ..._CURRENT_CONFIG, revision 1 (NDIS 6.0), 112 bytes."""

    header: NdisObjectHeader = nested(NdisObjectHeader)
    checksum_ipv4_transmit_encapsulation: int = u32(default=0)
    checksum_ipv4_transmit: Ipv4Checksums = u32(Ipv4Checksums, default=0)
    checksum_ipv4_receive_encapsulation: int = u32(default=0)
    checksum_ipv4_receive: Ipv4Checksums = u32(Ipv4Checksums, default=0)
    checksum_ipv6_transmit_encapsulation: int = u32(default=0)
    checksum_ipv6_transmit: Ipv6Checksums = u32(Ipv6Checksums, default=0)
    checksum_ipv6_receive_encapsulation: int = u32(default=0)
    checksum_ipv6_receive: Ipv6Checksums = u32(Ipv6Checksums, default=0)
    lso_v1_encapsulation: int = u32(default=0)
    lso_v1_max_size: int = u32(default=0, unit="bytes")
    lso_v1_min_segments: int = u32(default=0)
    lso_v1_options: int = u32(default=0)
    ipsec_v1_encapsulation: int = u32(default=0)
    ipsec_v1_ah_esp_combined: int = u32(default=0)
    ipsec_v1_transport_tunnel_combined: int = u32(default=0)
    ipsec_v1_ipv4_options: int = u32(default=0)
    ipsec_v1_flags: int = u32(default=0)
    ipsec_v1_ipv4_ah: int = u32(default=0)
    ipsec_v1_ipv4_esp: int = u32(default=0)
    lso_v2_ipv4_encapsulation: int = u32(default=0)
    lso_v2_ipv4_max_size: int = u32(default=0, unit="bytes")
    lso_v2_ipv4_min_segments: int = u32(default=0)
    lso_v2_ipv6_encapsulation: int = u32(default=0)
    lso_v2_ipv6_max_size: int = u32(default=0, unit="bytes")
    lso_v2_ipv6_min_segments: int = u32(default=0)
    lso_v2_ipv6: Ipv6LargeSend = u32(Ipv6LargeSend, default=0)
    flags: int = u32(default=0)


class NdisOffload2(NdisOffload):
    """Revision 2 (NDIS 6.1), 144 bytes: IPsec again."""

    ipsec_v2_encapsulation: int = u32(default=0)
    ipsec_v2_ipv6_supported: int = u8(default=0)
    ipsec_v2_ipv4_options: int = u8(default=0)
    ipsec_v2_ipv6_non_ipsec_extension_headers: int = u8(default=0)
    ipsec_v2_ah: int = u8(default=0)
    ipsec_v2_esp: int = u8(default=0)
    ipsec_v2_ah_esp_combined: int = u8(default=0)
    ipsec_v2_transport: int = u8(default=0)
    ipsec_v2_tunnel: int = u8(default=0)
    ipsec_v2_transport_tunnel_combined: int = u8(default=0)
    ipsec_v2_lso: int = u8(default=0)
    ipsec_v2_extended_sequence_numbers: int = u8(default=0)
    ipsec_v2_padding: bytes = pad(1, default=b"")
    ipsec_v2_udp_esp: int = u32(default=0)
    ipsec_v2_authentication: int = u32(default=0)
    ipsec_v2_crypto: int = u32(default=0)
    ipsec_v2_sa_offload_capacity: int = u32(default=0)


class NdisOffload3(NdisOffload2):
    """Revision 3 (NDIS 6.30), 156 bytes: receive segment coalescing and NVGRE."""

    rsc_ipv4: int = u8(default=0)
    rsc_ipv6: int = u8(default=0)
    rsc_padding: bytes = pad(2, default=b"")
    nvgre_flags: int = u32(default=0)
    nvgre_max_header_size: int = u32(default=0, unit="bytes")


class NdisOffload5(NdisOffload3):
    """As openvmm declares the newest one, 180 bytes: VXLAN."""

    vxlan_flags: int = u32(default=0)
    vxlan_max_header_size: int = u32(default=0, unit="bytes")
    vxlan_udp_port_count: int = u32(default=0)
    vxlan_udp_port_count_min: int = u32(default=0)
    vxlan_flags2: int = u32(default=0)
    encapsulation_types: int = u8(default=0)
    padding: bytes = pad(3, default=b"")


class OffloadChecksum(OpenEnum):
    """What a guest asks of a checksum offload."""

    NO_CHANGE = 0
    TX_RX_DISABLED = 1
    TX_ENABLED_RX_DISABLED = 2
    RX_ENABLED_TX_DISABLED = 3
    TX_RX_ENABLED = 4


class OffloadSwitch(OpenEnum):
    """What a guest asks of another offload."""

    NO_CHANGE = 0
    DISABLED = 1
    ENABLED = 2


class NdisOffloadParameters(Format):
    """OID_TCP_OFFLOAD_PARAMETERS, revision 1, 20 bytes."""

    header: NdisObjectHeader = nested(NdisObjectHeader)
    ipv4_checksum: OffloadChecksum = u8(OffloadChecksum, default=0)
    tcp_ipv4_checksum: OffloadChecksum = u8(OffloadChecksum, default=0)
    udp_ipv4_checksum: OffloadChecksum = u8(OffloadChecksum, default=0)
    tcp_ipv6_checksum: OffloadChecksum = u8(OffloadChecksum, default=0)
    udp_ipv6_checksum: OffloadChecksum = u8(OffloadChecksum, default=0)
    lso_v1: OffloadSwitch = u8(OffloadSwitch, default=0)
    ipsec_v1: int = u8(default=0)
    lso_v2_ipv4: OffloadSwitch = u8(OffloadSwitch, default=0)
    lso_v2_ipv6: OffloadSwitch = u8(OffloadSwitch, default=0)
    tcp_connection_ipv4: int = u8(default=0)
    tcp_connection_ipv6: int = u8(default=0)
    reserved: int = u8(default=0)
    flags: int = u32(default=0)


class NdisOffloadParameters2(NdisOffloadParameters):
    """Revision 2, 22 bytes: IPsec again. Linux sends this to hosts up to NVSP 4."""

    ipsec_v2: int = u8(default=0)
    ipsec_v2_ipv4: int = u8(default=0)


class NdisOffloadParameters3(NdisOffloadParameters2):
    """Revision 3, 28 bytes with its padding: receive segment coalescing and encapsulation."""

    rsc_ipv4: OffloadSwitch = u8(OffloadSwitch, default=0)
    rsc_ipv6: OffloadSwitch = u8(OffloadSwitch, default=0)
    encapsulated_packet_task_offload: int = u8(default=0)
    encapsulation_types: int = u8(default=0)
    padding: bytes = pad(2, default=b"")


class NdisOffloadEncapsulation(Format):
    """OID_OFFLOAD_ENCAPSULATION. Asked for it says 1 where supported; set, 1 turns on and 2 off."""

    header: NdisObjectHeader = nested(NdisObjectHeader)
    ipv4_enabled: int = u32()
    ipv4_encapsulation_type: int = u32(default=ENCAPSULATION_802_3)
    ipv4_header_size: int = u32(default=14, unit="bytes")
    ipv6_enabled: int = u32()
    ipv6_encapsulation_type: int = u32(default=ENCAPSULATION_802_3)
    ipv6_header_size: int = u32(default=14, unit="bytes")


class RssCapabilities(OpenFlags):
    """Capabilities of receive side scaling; the low byte names hash functions (1: Toeplitz)."""

    TOEPLITZ = 0x00000001
    HASH_TYPE_TCP_IPV4 = 0x00000100
    HASH_TYPE_TCP_IPV6 = 0x00000200
    HASH_TYPE_TCP_IPV6_EX = 0x00000400
    HASH_TYPE_UDP_IPV4 = 0x00000800
    HASH_TYPE_UDP_IPV6 = 0x00001000
    HASH_TYPE_UDP_IPV6_EX = 0x00002000
    MESSAGE_SIGNALED_INTERRUPTS = 0x01000000
    CLASSIFICATION_AT_ISR = 0x02000000
    CLASSIFICATION_AT_DPC = 0x04000000
    USING_MSI_X = 0x08000000
    RSS_AVAILABLE_ON_PORTS = 0x10000000
    SUPPORTS_MSI_X = 0x20000000
    SUPPORTS_INDEPENDENT_ENTRY_MOVE = 0x40000000


class NdisReceiveScaleCapabilities(Format):
    """OID_GEN_RECEIVE_SCALE_CAPABILITIES, revision 2, 18 bytes."""

    header: NdisObjectHeader = nested(NdisObjectHeader)
    capabilities: RssCapabilities = u32(RssCapabilities)
    number_of_interrupt_messages: int = u32()
    number_of_receive_queues: int = u32()
    number_of_indirection_table_entries: int = u16()


class NdisReceiveScaleCapabilities3(NdisReceiveScaleCapabilities):
    """The same with its padding, 20 bytes."""

    padding: bytes = pad(2, default=b"")


class RssHash(OpenFlags):
    """Hash function (low byte) and the headers that it covers."""

    TOEPLITZ = 0x00000001
    IPV4 = 0x00000100
    TCP_IPV4 = 0x00000200
    IPV6 = 0x00000400
    IPV6_EX = 0x00000800
    TCP_IPV6 = 0x00001000
    TCP_IPV6_EX = 0x00002000
    UDP_IPV4 = 0x00004000
    UDP_IPV6 = 0x00008000
    UDP_IPV6_EX = 0x00010000


class RssFlags(OpenFlags):
    """What a set of receive side scaling leaves as it is."""

    BASE_CPU_UNCHANGED = 0x0001
    HASH_INFO_UNCHANGED = 0x0002
    INDIRECTION_TABLE_UNCHANGED = 0x0004
    HASH_KEY_UNCHANGED = 0x0008
    DISABLE_RSS = 0x0010
    DEFAULT_PROCESSOR_UNCHANGED = 0x0020


class QueueNumber(Format):
    """One entry of the receive indirection table."""

    queue: int = u32()


class NdisReceiveScaleParameters(Format):
    """OID_GEN_RECEIVE_SCALE_PARAMETERS, revision 2, 40 bytes and what the offsets point at."""

    header: NdisObjectHeader = nested(NdisObjectHeader)
    flags: RssFlags = u16(RssFlags, default=0)
    base_cpu_number: int = u16(default=0)
    hash_information: RssHash = u32(RssHash)
    indirection_table_size: int = u16(unit="bytes")
    padding: int = u16(default=0)
    indirection_table_offset: int = u32(unit="bytes")
    hash_secret_key_size: int = u16(unit="bytes")
    padding2: int = u16(default=0)
    hash_secret_key_offset: int = u32(unit="bytes")
    processor_masks_offset: int = u32(default=0, unit="bytes")
    number_of_processor_masks: int = u32(default=0)
    processor_masks_entry_size: int = u32(default=0, unit="bytes")
    tables: bytes = rest(doc="the indirection table and the key, where the offsets say")
    indirection_table: tuple[QueueNumber, ...] = located(
        offset="indirection_table_offset", length="indirection_table_size", element=QueueNumber
    )
    hash_secret_key: bytes = located(offset="hash_secret_key_offset", length="hash_secret_key_size")
