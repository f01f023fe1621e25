"""Synthetic video (synthvid): where the frame buffer lies, what of it changed, and the pointer; messages of a pipe.

The guest asks for a version and for the resolutions, says where its video memory and its picture are, and then
sends the rectangles that it drew.  The host says what it wants to hear of.  Everything is packed.

Sources: openvmm ``vm/devices/uidevices/src/video/protocol.rs``; Linux 6.12
``drivers/gpu/drm/hyperv/hyperv_drm_proto.c``; mu_msvm ``VideoDxe/SynthVidProtocol.h``, by way of Mile.HyperV
``Mile.HyperV.Guest.Protocols.h`` (``SYNTHVID_*``).
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum
from vmbus.wire.schema import Format, array, bits, i32, items, raw, rest, u8, u16, u32, u64, variant

MAX_PACKET_SIZE = 0x4000
MAX_RESOLUTIONS = 64
MAX_DIRTY_REGIONS = 255
CURSOR_MAX_X = CURSOR_MAX_Y = 96
CURSOR_COMPLETE = 0xFF
"""``partial_index`` of the last, or only, part of a pointer's shape."""
EDID_SIZE = 128

EDID_BLOCK = bytes.fromhex(
    "00ffffffffffff0036682e0600000000ff1501048000007822ee95a3544c99260f505400000001010101010101010101"
    "0101010101016c2000304200323040c0130000000000001e000000fc004879706572564d6f6e69746f72000000100000"
    "00000000000000000000000000000010000000000000000000000000000000c6"
)
"""The EDID of Hyper-V's monitor (openvmm ``EDID_BLOCK``)."""


class VideoVersion(OpenEnum):
    """The minor version in the high half and the major one in the low half, unlike every other protocol here."""

    WIN7 = 0x00000003
    WIN8 = 0x00020003
    WIN_BLUE = 0x00030003
    THRESHOLD_M1 = 0x00040003
    WIN10 = 0x00050003


class VideoMessageType(OpenEnum):
    """What a video message is."""

    ERROR = 0
    VERSION_REQUEST = 1
    VERSION_RESPONSE = 2
    VRAM_LOCATION = 3
    VRAM_LOCATION_ACK = 4
    SITUATION_UPDATE = 5
    SITUATION_UPDATE_ACK = 6
    POINTER_POSITION = 7
    POINTER_SHAPE = 8
    FEATURE_CHANGE = 9
    DIRT = 10
    BIOS_INFO_REQUEST = 11
    BIOS_INFO_RESPONSE = 12
    SUPPORTED_RESOLUTIONS_REQUEST = 13
    SUPPORTED_RESOLUTIONS_RESPONSE = 14
    CAPABILITY_REQUEST = 15
    CAPABILITY_RESPONSE = 16


class VersionAccepted(OpenEnum):
    """The host's answer to a version."""

    NO = 0
    YES = 1
    YES_WITH_VERSION_EXCHANGE = 2


class ScreenInfo(Format):
    """A resolution."""

    width: int = u16(unit="pixels")
    height: int = u16(unit="pixels")


class Rectangle(Format):
    """Part of a screen; right and bottom are outside it."""

    left: int = i32(unit="pixels")
    top: int = i32(unit="pixels")
    right: int = i32(unit="pixels")
    bottom: int = i32(unit="pixels")


class VideoVersionRequest(Format):
    """Guest to host: the version that the guest wants."""

    version: VideoVersion = u32(VideoVersion)


class VideoVersionResponse(Format):
    """Host to guest."""

    version: VideoVersion = u32(VideoVersion)
    is_accepted: VersionAccepted = u8(VersionAccepted)
    max_video_outputs: int = u8(default=1)


class SupportedResolutionsRequest(Format):
    """Guest to host. Linux asks from 3.5 on and takes the largest screen of older versions for granted."""

    maximum_resolution_count: int = u8(default=MAX_RESOLUTIONS)


class SupportedResolutionsResponse(Format):
    """Host to guest."""

    edid_block: bytes = raw(EDID_SIZE)
    resolution_count: int = u8()
    default_resolution_index: int = u8()
    is_standard: int = u8()
    supported_resolutions: tuple[ScreenInfo, ...] = items(ScreenInfo, count="resolution_count")


class CapabilityRequest(Format):
    """Guest to host, from 3.5 on."""


class CapabilityResponse(Format):
    """Host to guest."""

    lock_on_disconnect: int = bits(1, of=32)
    reserved: int = bits(31, default=0)
    reserved2: tuple[int, ...] = array(u32(), 15, default=(0,) * 15)


class VramLocation(Format):
    """Guest to host: where in guest memory the video memory is to be."""

    user_context: int = u64(doc="comes back in the acknowledgement")
    is_vram_gpa_address_specified: int = u8()
    vram_gpa_address: int = u64()


class VramLocationAck(Format):
    """Host to guest: what is written there is now shown."""

    user_context: int = u64()


class VideoOutputSituation(Format):
    """How the picture lies in video memory."""

    active: int = u8()
    primary_surface_vram_offset: int = u32(default=0, unit="bytes")
    depth_bits: int = u8(unit="bits")
    width_pixels: int = u32(unit="pixels")
    height_pixels: int = u32(unit="pixels")
    pitch_bytes: int = u32(unit="bytes", doc="from one row to the next")


class SituationUpdate(Format):
    """Guest to host: the picture's layout changed."""

    user_context: int = u64()
    video_output_count: int = u8(default=1)
    video_output: tuple[VideoOutputSituation, ...] = items(VideoOutputSituation, count="video_output_count")


class SituationUpdateAck(Format):
    """Host to guest."""

    user_context: int = u64()


class BiosInfoRequest(Format):
    """Guest to host, from 3.3 on."""


class BiosInfoResponse(Format):
    """Host to guest. The first field was the VM's generation once; generation 2 has the same value."""

    stop_device_supported: int = bits(1, of=32)
    reserved: int = bits(31, default=0)
    reserved2: bytes = raw(12, default=b"")


class PointerPosition(Format):
    """Guest to host; heeded only while the mouse is relative."""

    is_visible: int = u8()
    video_output: int = u8(default=0)
    image_x: int = i32(unit="pixels", doc="left edge of the pointer's image")
    image_y: int = i32(unit="pixels", doc="top edge of the pointer's image")


class PointerShape(Format):
    """Guest to host: the pointer's image, in parts if it is large."""

    partial_index: int = u8(default=CURSOR_COMPLETE, doc="which part; 0xff for the last or only one")
    cursor_flags: int = u8(doc="1: 32 bits of colour a pixel; 0: two bits a pixel, in two planes")
    width_pixels: int = u32(unit="pixels", doc="at most 96")
    height_pixels: int = u32(unit="pixels", doc="at most 96")
    hotspot_x: int = u32(unit="pixels")
    hotspot_y: int = u32(unit="pixels")
    pixel_data: bytes = rest(payload=True)


class FeatureChange(Format):
    """Host to guest: which messages it wants from now on."""

    is_dirt_needed: int = u8()
    is_pointer_position_updates_needed: int = u8()
    is_pointer_shape_updates_needed: int = u8()
    is_video_situation_updates_needed: int = u8()


class FeatureChangeV2(FeatureChange):
    """The same with a new EDID, from 3.4 on."""

    edid_block: bytes = raw(EDID_SIZE)


class Dirt(Format):
    """Guest to host: what it drew."""

    video_output: int = u8(default=0)
    dirt_count: int = u8()
    dirt: tuple[Rectangle, ...] = items(Rectangle, count="dirt_count")


VIDEO_BODIES: dict[int, type[Format] | tuple[type[Format], ...]] = {
    VideoMessageType.VERSION_REQUEST: VideoVersionRequest,
    VideoMessageType.VERSION_RESPONSE: VideoVersionResponse,
    VideoMessageType.VRAM_LOCATION: VramLocation,
    VideoMessageType.VRAM_LOCATION_ACK: VramLocationAck,
    VideoMessageType.SITUATION_UPDATE: SituationUpdate,
    VideoMessageType.SITUATION_UPDATE_ACK: SituationUpdateAck,
    VideoMessageType.POINTER_POSITION: PointerPosition,
    VideoMessageType.POINTER_SHAPE: PointerShape,
    VideoMessageType.FEATURE_CHANGE: (FeatureChange, FeatureChangeV2),
    VideoMessageType.DIRT: Dirt,
    VideoMessageType.BIOS_INFO_REQUEST: BiosInfoRequest,
    VideoMessageType.BIOS_INFO_RESPONSE: BiosInfoResponse,
    VideoMessageType.SUPPORTED_RESOLUTIONS_REQUEST: SupportedResolutionsRequest,
    VideoMessageType.SUPPORTED_RESOLUTIONS_RESPONSE: SupportedResolutionsResponse,
    VideoMessageType.CAPABILITY_REQUEST: CapabilityRequest,
    VideoMessageType.CAPABILITY_RESPONSE: CapabilityResponse,
}


class VideoMessage(Format):
    """Any message of a video channel's pipe, in either direction."""

    message_type: VideoMessageType = u32(VideoMessageType)
    message_size: int = u32(unit="bytes", doc="of the body (openvmm) or of header and body (Linux)")
    body: Format | bytes = variant(on="message_type", cases=VIDEO_BODIES)
    trailing: bytes = rest()
