"""The key-value pair service (KVP): small facts that host and guest exchange, and the guest's IP settings.

The host asks, the guest answers with the same layout.  Service version 5.0 replaced the IP settings as text by
binary ones; Linux speaks at most 4.0.  Where the body starts depends on its alignment: 4 bytes for most, 2 for the
IP settings as text.

Sources: openvmm ``hyperv_ic_protocol/src/kvp.rs`` and ``hyperv_ic/src/kvp.rs``; Linux 6.12
``include/uapi/linux/hyperv.h`` (``hv_kvp_*``) and ``drivers/hv/hv_kvp.c``.
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum
from vmbus.wire.schema import Format, array, raw, rest, u8, u16, u32, u64, variant

MAX_KEY_BYTES = 512
MAX_VALUE_BYTES = 2048

HOST_KEYS = (
    "FullyQualifiedDomainName", "IntegrationServicesVersion", "NetworkAddressIPv4", "NetworkAddressIPv6",
    "OSBuildNumber", "OSName", "OSMajorVersion", "OSMinorVersion", "OSVersion", "ProcessorArchitecture",
)  # fmt: skip
"""What the guest is to call its own facts, by the index of an enumeration."""


class KvpOperation(OpenEnum):
    """What the host asks."""

    GET = 0
    SET = 1
    DELETE = 2
    ENUMERATE = 3
    GET_IP_ADDRESS_INFO = 4
    SET_IP_ADDRESS_INFO = 5


class KvpPool(OpenEnum):
    """Who writes the pairs: host, guest, guest on its own, host on its own."""

    EXTERNAL = 0
    GUEST = 1
    AUTO = 2
    AUTO_EXTERNAL = 3
    AUTO_INTERNAL = 4


class KvpValueType(OpenEnum):
    """What a value is: Windows' registry types."""

    STRING = 1
    EXPAND_STRING = 2
    DWORD = 4
    LINUX_U64 = 8
    QWORD = 11


class AddressFamily(OpenEnum):
    """Which addresses a message is about."""

    NONE = 0
    IPV4 = 1
    IPV6 = 2
    IPV4V6 = 3


class AddressOrigin(OpenEnum):
    """Where an address came from."""

    UNKNOWN = 0
    OTHER = 1
    STATIC = 2


class KvpText(Format):
    """A value that is text."""

    text: bytes = raw(MAX_VALUE_BYTES, text="utf-16-le")


class KvpDword(Format):
    """A value of 32 bits."""

    number: int = u32()
    unused: bytes = raw(MAX_VALUE_BYTES - 4, default=b"")


class KvpQword(Format):
    """A value of 64 bits."""

    number: int = u64()
    unused: bytes = raw(MAX_VALUE_BYTES - 8, default=b"")


KVP_VALUES: dict[int, type[Format]] = {
    KvpValueType.STRING: KvpText,
    KvpValueType.EXPAND_STRING: KvpText,
    KvpValueType.DWORD: KvpDword,
    KvpValueType.LINUX_U64: KvpQword,
    KvpValueType.QWORD: KvpQword,
}


class KvpExchange(Format):
    """Get or set a value."""

    padding: int = u16(default=0)
    value_type: KvpValueType = u32(KvpValueType, default=KvpValueType.STRING)
    key_size: int = u32(unit="bytes", doc="with the terminating zero")
    value_size: int = u32(default=0, unit="bytes")
    key: bytes = raw(MAX_KEY_BYTES, text="utf-16-le")
    value: Format | bytes = variant(on="value_type", cases=KVP_VALUES)


class KvpEnumerate(Format):
    """Get the pair of an index; past the last one the status is NO_MORE_ITEMS."""

    padding: int = u16(default=0)
    index: int = u32()
    value_type: KvpValueType = u32(KvpValueType, default=KvpValueType.STRING)
    key_size: int = u32(default=0, unit="bytes", doc="with the terminating zero")
    value_size: int = u32(default=0, unit="bytes")
    key: bytes = raw(MAX_KEY_BYTES, default=b"", text="utf-16-le")
    value: Format | bytes = variant(on="value_type", cases=KVP_VALUES)


class KvpDelete(Format):
    """Forget a pair."""

    padding: int = u16(default=0)
    key_size: int = u32(unit="bytes", doc="with the terminating zero")
    key: bytes = raw(MAX_KEY_BYTES, text="utf-16-le")


class KvpAddressText(Format):
    """The IP settings of a card, as lists separated by semicolons; before 5.0."""

    adapter_id: bytes = raw(256, text="utf-16-le", doc="the card's instance id")
    address_family: AddressFamily = u8(AddressFamily)
    dhcp_enabled: int = u8()
    ip_address: bytes = raw(2048, text="utf-16-le")
    subnet: bytes = raw(2048, text="utf-16-le")
    gateway: bytes = raw(1024, text="utf-16-le")
    dns_server_addresses: bytes = raw(2048, text="utf-16-le")


class KvpAddressBinary(Format):
    """The IP settings of a card in network byte order; from 5.0 on."""

    padding: int = u16(default=0)
    ipv4_address_count: int = u32()
    ipv6_address_count: int = u32()
    ipv4_gateway_count: int = u32()
    ipv6_gateway_count: int = u32()
    ipv4_dns_server_count: int = u32()
    ipv6_dns_server_count: int = u32()
    adapter_id: bytes = raw(256, text="utf-16-le", doc="the card's instance id")
    address_family: AddressFamily = u8(AddressFamily)
    dhcp_enabled: int = u8()
    padding2: int = u16(default=0)
    ipv4_addresses: tuple[bytes, ...] = array(raw(4), 64)
    ipv6_addresses: tuple[bytes, ...] = array(raw(16), 64)
    ipv4_subnets: tuple[bytes, ...] = array(raw(4), 64)
    ipv6_subnets: tuple[int, ...] = array(u32(), 64, doc="lengths of the prefixes")
    ipv4_gateways: tuple[bytes, ...] = array(raw(4), 5)
    ipv6_gateways: tuple[bytes, ...] = array(raw(16), 5)
    ipv4_dns_servers: tuple[bytes, ...] = array(raw(4), 64)
    ipv6_dns_servers: tuple[bytes, ...] = array(raw(16), 64)
    ip_address_origins: tuple[AddressOrigin, ...] = array(u16(AddressOrigin), 128, doc="IPv4, then IPv6, no gap")


_PAIRS: dict[int, type[Format]] = {
    KvpOperation.GET: KvpExchange,
    KvpOperation.SET: KvpExchange,
    KvpOperation.DELETE: KvpDelete,
    KvpOperation.ENUMERATE: KvpEnumerate,
}


class KvpMessage(Format):
    """A request or an answer before service version 5.0."""

    operation: KvpOperation = u8(KvpOperation)
    pool: KvpPool = u8(KvpPool)
    body: Format | bytes = variant(
        on="operation",
        cases={
            **_PAIRS,
            KvpOperation.GET_IP_ADDRESS_INFO: KvpAddressText,
            KvpOperation.SET_IP_ADDRESS_INFO: KvpAddressText,
        },
    )
    trailing: bytes = rest()


class KvpMessageV5(Format):
    """A request or an answer from service version 5.0 on."""

    operation: KvpOperation = u8(KvpOperation)
    pool: KvpPool = u8(KvpPool)
    body: Format | bytes = variant(
        on="operation",
        cases={
            **_PAIRS,
            KvpOperation.GET_IP_ADDRESS_INFO: KvpAddressBinary,
            KvpOperation.SET_IP_ADDRESS_INFO: KvpAddressBinary,
        },
    )
    trailing: bytes = rest()
