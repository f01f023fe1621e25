"""How a guest brings a card up: version, buffers, RNDIS, offloads, subchannels, and at last a packet filter.

Written as generators that yield promises, top to bottom in the order in which it happens; the driver runs them from
its loop.

Sources: Linux 6.12 ``drivers/net/hyperv/netvsc.c`` (``netvsc_connect_vsp``, ``netvsc_init_buf``) and ``rndis_filter.c``
(``rndis_filter_device_add``, ``rndis_set_subchannel``).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

from vmbus.channel import Channel
from vmbus.drivers.buffers import BufferUse, SharedBuffer
from vmbus.drivers.driver import ChannelOffer, DriverBus
from vmbus.drivers.errors import DriverError
from vmbus.drivers.network.rings import SendArea
from vmbus.drivers.promise import Promise
from vmbus.wire.ndis import (
    NdisObjectHeader,
    NdisObjectType,
    NdisOffload,
    NdisOffload3,
    NdisOffloadParameters,
    NdisOffloadParameters3,
    NdisReceiveScaleCapabilities,
    NdisReceiveScaleParameters,
    NdisStatus,
    OffloadChecksum,
    OffloadSwitch,
    RssHash,
)
from vmbus.wire.nvsp import (
    ChannelType,
    NdisCapabilities,
    NvspInit,
    NvspInitComplete,
    NvspMessageType,
    NvspSendNdisConfig,
    NvspSendNdisVersion,
    NvspSendReceiveBuffer,
    NvspSendReceiveBufferComplete,
    NvspSendRndisPacketComplete,
    NvspSendSendBuffer,
    NvspSendSendBufferComplete,
    NvspStatus,
    NvspSubchannelComplete,
    NvspSubchannelRequest,
    NvspVersion,
    SubchannelOperation,
    build_message,
)
from vmbus.wire.rndis import (
    RndisInitialize,
    RndisInitializeComplete,
    RndisMessageType,
)
from vmbus.wire.rndis_oid import MediaConnectStatus, Oid, PacketFilter

if TYPE_CHECKING:
    from vmbus.drivers.network.vsc import NetworkDriver

VERSIONS: Final = (
    NvspVersion.V61, NvspVersion.V6, NvspVersion.V5, NvspVersion.V4, NvspVersion.V2, NvspVersion.V1
)  # fmt: skip
RECEIVE_BUFFER_ID: Final = 0xCAFE
RECEIVE_PAGES, SEND_PAGES, LARGE_SLOTS = 1024, 384, 16
RING_PAGES: Final = 32


_FILTER: Final = PacketFilter.DIRECTED | PacketFilter.ALL_MULTICAST | PacketFilter.BROADCAST

Steps = Generator[Promise[Any], Any, None]


class BringUp:
    """The steps for one card; what they learn goes into the driver."""

    def __init__(self, driver: NetworkDriver, bus: DriverBus, offer: ChannelOffer) -> None:
        self._driver = driver
        self._bus = bus
        self._offer = offer

    def steps(self) -> Steps:
        """Everything, in order."""
        driver, bus = self._driver, self._bus
        channel: Channel = yield bus.open(self._offer, RING_PAGES, RING_PAGES)
        driver.primary = channel
        driver.add_queue(channel)
        for version in VERSIONS[VERSIONS.index(driver.newest_version) :]:
            hello = NvspInit(protocol_version=version, protocol_version2=version)
            answer = yield driver.nvsp.ask(channel, NvspMessageType.INIT, hello, version)
            if isinstance(answer, NvspInitComplete) and answer.status == NvspStatus.SUCCESS:
                driver.version = version
                break
        else:
            raise DriverError("the host speaks none of our versions of NVSP")
        complete = NvspSendRndisPacketComplete(status=NvspStatus.SUCCESS)
        driver.completion = build_message(NvspMessageType.SEND_RNDIS_PACKET_COMPLETE, complete)
        if driver.version > NvspVersion.V1:
            capabilities = NdisCapabilities.IEEE_8021Q
            if self._may_coalesce:
                capabilities |= NdisCapabilities.RSC_OVER_VMBUS
            config = NvspSendNdisConfig(mtu=driver.frame_size, capabilities=capabilities)
            driver.nvsp.tell(channel, NvspMessageType.SEND_NDIS_CONFIG, config, driver.version)
        ndis = (6, 30) if driver.version >= NvspVersion.V5 else (6, 1)
        driver.nvsp.tell(
            channel,
            NvspMessageType.SEND_NDIS_VERSION,
            NvspSendNdisVersion(ndis_major_version=ndis[0], ndis_minor_version=ndis[1]),
            driver.version,
        )
        yield from self._lend_buffers(channel)
        yield from self._initialize_card()
        if driver.wanted_queues > 1 and driver.version >= NvspVersion.V5:
            yield from self._open_subchannels(channel)
        yield driver.set(Oid.GEN_CURRENT_PACKET_FILTER, int(_FILTER).to_bytes(4, "little"))

    def _lend_buffers(self, channel: Channel) -> Steps:
        driver, bus = self._driver, self._bus
        receive: SharedBuffer = yield bus.share_buffer(channel, BufferUse.RECEIVE, RECEIVE_PAGES)
        driver.receive = receive
        lend = NvspSendReceiveBuffer(gpadl_handle=receive.gpadl_id, id=RECEIVE_BUFFER_ID)
        answer = yield driver.nvsp.ask(channel, NvspMessageType.SEND_RECEIVE_BUFFER, lend, driver.version)
        if not isinstance(answer, NvspSendReceiveBufferComplete) or answer.status != NvspStatus.SUCCESS:
            raise DriverError("the host refuses the receive buffer")
        section = answer.section
        if section.offset or section.sub_allocation_size * section.num_sub_allocations > len(receive.view):
            raise DriverError("the host divides the receive buffer beyond its end")
        send: SharedBuffer = yield bus.share_buffer(channel, BufferUse.SEND, SEND_PAGES)
        offered = NvspSendSendBuffer(gpadl_handle=send.gpadl_id, id=0)
        answer = yield driver.nvsp.ask(channel, NvspMessageType.SEND_SEND_BUFFER, offered, driver.version)
        if not isinstance(answer, NvspSendSendBufferComplete) or answer.status != NvspStatus.SUCCESS:
            raise DriverError("the host refuses the send buffer")
        driver.area = SendArea(send, answer.section_size)
        driver.data_message = build_message(
            NvspMessageType.SEND_RNDIS_PACKET, driver.nvsp.packet(ChannelType.DATA, 0, 0), driver.version
        )

    def _initialize_card(self) -> Steps:
        driver, bus = self._driver, self._bus
        complete = yield driver.ask_card(
            lambda request: (
                RndisMessageType.INITIALIZE,
                RndisInitialize(request_id=request, max_transfer_size=0x4000),
            )
        )
        if not isinstance(complete, RndisInitializeComplete) or complete.status != NdisStatus.SUCCESS:
            raise DriverError("the host refuses to initialize the card")
        driver.mac = yield driver.query(Oid.IEEE_802_3_PERMANENT_ADDRESS)
        frame_size = yield driver.query(Oid.GEN_MAXIMUM_FRAME_SIZE)
        driver.mtu = min(driver.mtu, int.from_bytes(frame_size, "little"))
        status = yield driver.query(Oid.GEN_MEDIA_CONNECT_STATUS)
        driver.link_up = int.from_bytes(status, "little") == MediaConnectStatus.CONNECTED
        capabilities = yield driver.query(Oid.TCP_OFFLOAD_HARDWARE_CAPABILITIES)
        offered = NdisOffload.parse(capabilities)
        if driver.wants_large and bus.can_name_pages and offered.lso_v2_ipv4_encapsulation:
            assert driver.area is not None
            driver.largest_send = min(offered.lso_v2_ipv4_max_size, 0xFFFF)
            driver.area.add_slots(bus.memory, bus.pages, LARGE_SLOTS)
        coalesces = len(capabilities) >= NdisOffload3.SIZE and NdisOffload3.parse(capabilities).rsc_ipv4
        offloads = self._coalescing() if self._may_coalesce and coalesces else self._offloads()
        yield driver.set(Oid.TCP_OFFLOAD_PARAMETERS, offloads.build())

    @property
    def _may_coalesce(self) -> bool:
        return self._driver.wants_coalescing and self._driver.version >= NvspVersion.V61

    def _offloads(self) -> NdisOffloadParameters:
        driver = self._driver
        size = NdisOffloadParameters.SIZE
        large = OffloadSwitch.ENABLED if driver.largest_send else OffloadSwitch.DISABLED
        checksum = OffloadChecksum.TX_RX_ENABLED if driver.largest_send else OffloadChecksum.TX_RX_DISABLED
        return NdisOffloadParameters(
            header=NdisObjectHeader(object_type=NdisObjectType.DEFAULT, revision=1, size=size),
            tcp_ipv4_checksum=checksum,
            lso_v2_ipv4=large,
            lso_v2_ipv6=OffloadSwitch.DISABLED,
        )

    def _coalescing(self) -> NdisOffloadParameters3:
        """Segments are to come coalesced; then the host's word is taken for every checksum, as Linux does."""
        on = OffloadChecksum.TX_RX_ENABLED
        large = OffloadSwitch.ENABLED if self._driver.largest_send else OffloadSwitch.DISABLED
        size = NdisOffloadParameters3.SIZE
        return NdisOffloadParameters3(
            header=NdisObjectHeader(object_type=NdisObjectType.DEFAULT, revision=3, size=size),
            tcp_ipv4_checksum=on,
            udp_ipv4_checksum=on,
            tcp_ipv6_checksum=on,
            udp_ipv6_checksum=on,
            lso_v2_ipv4=large,
            lso_v2_ipv6=OffloadSwitch.DISABLED,
            rsc_ipv4=OffloadSwitch.ENABLED,
        )

    def _open_subchannels(self, channel: Channel) -> Steps:
        driver = self._driver
        capabilities = NdisReceiveScaleCapabilities.parse((yield driver.query(Oid.GEN_RECEIVE_SCALE_CAPABILITIES)))
        wanted = min(driver.wanted_queues, capabilities.number_of_receive_queues) - 1
        if wanted < 1:
            return
        driver.subchannels = wanted
        request = NvspSubchannelRequest(operation=SubchannelOperation.ALLOCATE, num_sub_channels=wanted)
        answer = yield driver.nvsp.ask(channel, NvspMessageType.SUBCHANNEL, request, driver.version)
        if not isinstance(answer, NvspSubchannelComplete) or answer.status != NvspStatus.SUCCESS:
            driver.subchannels = 0
            return
        driver.subchannels = min(wanted, answer.num_sub_channels)
        driver.check_all_open()
        yield driver.all_open
        table = b"".join((entry % len(driver.queues)).to_bytes(4, "little") for entry in range(128))
        scaling = NdisReceiveScaleParameters(
            header=NdisObjectHeader(object_type=NdisObjectType.RSS_PARAMETERS, revision=2, size=40),
            hash_information=RssHash.TOEPLITZ | RssHash.IPV4 | RssHash.TCP_IPV4,
            indirection_table_size=len(table),
            indirection_table_offset=40,
            hash_secret_key_size=40,
            hash_secret_key_offset=40 + len(table),
            tables=table + bytes(range(40)),
        )
        yield driver.set(Oid.GEN_RECEIVE_SCALE_PARAMETERS, scaling.build())
