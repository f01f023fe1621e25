"""An offer of a channel: the message, its flags, and the layouts of the bytes that a device adds.

Sources: openvmm ``vmbus_core/src/protocol.rs`` (``OfferChannel``, ``OfferFlags``, ``PipeUserDefinedParameters``,
``HvsockUserDefinedParameters``); Linux 6.12 ``include/linux/hyperv.h`` (``vmbus_channel_offer_channel``, server
flags); mu_msvm ``VmbusDxe/ChannelMessages.h`` (``VMBUS_CHANNEL_OFFER_CHANNEL_SIZE_PRE_WIN7``).
"""

from __future__ import annotations

from uuid import UUID

from vmbus.wire.control_values import MAX_USER_DEFINED, NO_MONITOR, FeatureFlags
from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.schema import NIL_GUID, Format, array, guid, pad, raw, u8, u16, u32


class OfferFlags(OpenFlags):
    """What an offered channel is. Bits 1 to 3 mean this once the feature that brought them is negotiated."""

    ENUMERATE_DEVICE_INTERFACE = 0x1
    CONFIDENTIAL_RING_BUFFER = 0x2
    CONFIDENTIAL_EXTERNAL_MEMORY = 0x4
    REQUIRE_PINNED_EXTERNAL_MEMORY = 0x8
    NAMED_PIPE_MODE = 0x10
    LOOPBACK_OFFER = 0x100
    PARENT_OFFER = 0x200
    REQUEST_MONITORED_NOTIFICATION = 0x400
    TLNPI_PROVIDER = 0x2000


class LegacyOfferFlags(OpenFlags):
    """The same bits as guests without CONFIDENTIAL_CHANNELS read them (Linux 6.12: ``VMBUS_CHANNEL_*``)."""

    ENUMERATE_DEVICE_INTERFACE = 0x1
    SERVER_SUPPORTS_TRANSFER_PAGES = 0x2
    SERVER_SUPPORTS_GPADLS = 0x4
    NAMED_PIPE_MODE = 0x10
    LOOPBACK_OFFER = 0x100
    PARENT_OFFER = 0x200
    REQUEST_MONITORED_NOTIFICATION = 0x400
    TLNPI_PROVIDER_OFFER = 0x2000


def offer_flags(flags: int, features: FeatureFlags) -> OfferFlags | LegacyOfferFlags:
    """The flags of an offer as the two ends of a connection with these features understand them."""
    if features & FeatureFlags.CONFIDENTIAL_CHANNELS:
        return OfferFlags(flags)
    return LegacyOfferFlags(flags)


CONFIDENTIAL = OfferFlags.CONFIDENTIAL_RING_BUFFER | OfferFlags.CONFIDENTIAL_EXTERNAL_MEMORY


class OfferChannelPre7(Format):
    """Offer (1) as hosts before 1.1 send it."""

    interface_id: UUID = guid(doc="what kind of device it is")
    instance_id: UUID = guid(doc="which one of them")
    reserved: tuple[int, ...] = array(u32(), 4, default=(0, 0, 0, 0), doc="may hold anything before 2.4")
    flags: OfferFlags = u16(OfferFlags, default=0)
    mmio_megabytes: int = u16(default=0, unit="MiB")
    user_defined: bytes = raw(MAX_USER_DEFINED, default=b"", doc="for the device; its layout follows from the flags")
    subchannel_index: int = u16(default=0, doc="0 for the primary channel; from 2.4 on")
    mmio_megabytes_optional: int = u16(default=0, unit="MiB", doc="wanted beside mmio_megabytes if there is room")
    channel_id: int = u32()
    monitor_id: int = u8(default=NO_MONITOR, doc="which of the 128 monitored notifications signals the host")
    monitor_allocated: int = u8(default=0, doc="bit 0: monitor_id is valid")


class OfferChannel(OfferChannelPre7):
    """Offer (1): the host has a channel."""

    is_dedicated: int = u16(default=1, doc="bit 0: the channel has an event of its own")
    connection_id: int = u32(doc="the connection that the guest signals")


class PipeType(OpenEnum):
    """What a pipe carries."""

    BYTE = 0
    MESSAGE = 4


class PipeFlags(OpenFlags):
    """What else a pipe can do."""

    GPA_DIRECT = 1


class PipeUserDefined(Format):
    """The user-defined bytes of a NAMED_PIPE_MODE offer."""

    pipe_type: PipeType = u32(PipeType)
    user_defined: bytes = raw(112, default=b"")
    flags: PipeFlags = u32(PipeFlags, default=0)


class HvsockVersion(OpenEnum):
    """Which layout the parameters of a Hyper-V socket have."""

    PRE_RS5 = 0
    RS5 = 1


class HvsockUserDefined(Format):
    """The user-defined bytes of a TLNPI_PROVIDER offer: a Hyper-V socket."""

    pipe_type: PipeType = u32(PipeType, default=PipeType.BYTE)
    is_for_guest_accept: int = u8(doc="1: the host connects to a listener in the guest; 0: an answer to the guest")
    is_for_guest_container: int = u8(default=0)
    version: HvsockVersion = u32(HvsockVersion, default=HvsockVersion.RS5)
    silo_id: UUID = guid(default=NIL_GUID)
    padding: bytes = pad(2, default=b"")
    unused: bytes = raw(92, default=b"", doc="the rest of the 120 bytes")


def user_defined_format(flags: int) -> type[PipeUserDefined] | type[HvsockUserDefined] | None:
    """How the user-defined bytes of an offer with these flags are laid out; None if only the device knows."""
    if flags & OfferFlags.TLNPI_PROVIDER:
        return HvsockUserDefined
    if flags & OfferFlags.NAMED_PIPE_MODE:
        return PipeUserDefined
    return None
