"""PacketDirect: the NVSP 6.1 messages by which Windows' own peers bypass RNDIS. No public implementation speaks it.

Sources: openvmm ``vm/devices/net/netvsp/src/protocol.rs`` (comments); Linux 6.12 ``drivers/net/hyperv/hyperv_net.h``
(``nvsp_6_pd_api_req`` to ``nvsp_6_pd_batch_msg``).
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum
from vmbus.wire.schema import Format, array, bits, items, nested, u8, u16, u32, u64, variant


class PdOperation(OpenEnum):
    """Operations of the PacketDirect interface; Microsoft's own peers alone use it."""

    CONFIGURATION = 1
    SWITCH_DATAPATH = 2
    OPEN_PROVIDER = 3
    CLOSE_PROVIDER = 4
    CREATE_QUEUE = 5
    FLUSH_QUEUE = 6
    FREE_QUEUE = 7
    ALLOCATE_COMMON_BUFFER = 8
    FREE_COMMON_BUFFER = 9


class PdConfigurationRequest(Format):
    """Where the guest put its MMIO window."""

    mmio_physical_address: int = u64()
    mmio_length: int = u32(unit="bytes")
    num_pd_queues: int = u16()


class PdSwitchDatapath(Format):
    """Whether each end uses PacketDirect."""

    host_datapath_is_packet_direct: int = u8()
    guest_packet_direct_is_enabled: int = u8()


class PdOpenProviderRequest(Format):
    """Open a provider."""

    provider_id: int = u32()
    flags: int = u32()


class PdProvider(Format):
    """Names a provider."""

    provider_id: int = u32()


class GroupAffinity(Format):
    """Processors of one group (Windows' GROUP_AFFINITY)."""

    mask: int = u64()
    group: int = u16()
    reserved: tuple[int, ...] = array(u16(), 3, default=(0, 0, 0))


class PdCreateQueueRequest(Format):
    """Make a queue."""

    provider_id: int = u32()
    queue_id: int = u16()
    queue_size: int = u16()
    is_receive_queue: int = u8()
    is_rss_queue: int = u8()
    receive_data_length: int = u32(unit="bytes")
    affinity: GroupAffinity = nested(GroupAffinity)


class PdQueue(Format):
    """Names a queue, to flush or free it."""

    provider_id: int = u32()
    queue_id: int = u16()


class PdAllocateBufferRequest(Format):
    """Allocate a common buffer."""

    length: int = u32(unit="bytes")
    preferred_node: int = u32()
    region_id: int = u16()


class PdFreeBufferRequest(Format):
    """Free a common buffer."""

    length: int = u32(unit="bytes")
    physical_address: int = u64()
    preferred_node: int = u32()
    region_id: int = u16()
    cache_type: int = u8()


class NvspPdRequest(Format):
    """A PacketDirect request."""

    operation: PdOperation = u32(PdOperation)
    parameters: Format | bytes = variant(
        on="operation",
        cases={
            PdOperation.CONFIGURATION: PdConfigurationRequest,
            PdOperation.SWITCH_DATAPATH: PdSwitchDatapath,
            PdOperation.OPEN_PROVIDER: PdOpenProviderRequest,
            PdOperation.CLOSE_PROVIDER: PdProvider,
            PdOperation.CREATE_QUEUE: PdCreateQueueRequest,
            PdOperation.FLUSH_QUEUE: PdQueue,
            PdOperation.FREE_QUEUE: PdQueue,
            PdOperation.ALLOCATE_COMMON_BUFFER: PdAllocateBufferRequest,
            PdOperation.FREE_COMMON_BUFFER: PdFreeBufferRequest,
        },
    )


class PdConfigurationResult(Format):
    """What the host grants."""

    num_pd_queues: int = u16()
    num_receive_rss_pd_queues: int = u8()
    is_supported_by_vsp: int = u8()
    is_enabled_by_vsp: int = u8()


class PdCreateQueueResult(Format):
    """The queue that was made."""

    provider_id: int = u32()
    queue_id: int = u16()
    queue_size: int = u16()
    receive_data_length: int = u32(unit="bytes")
    affinity: GroupAffinity = nested(GroupAffinity)


class PdAllocateBufferResult(Format):
    """The buffer that was allocated."""

    physical_address: int = u64()
    length: int = u32(unit="bytes")
    preferred_node: int = u32()
    region_id: int = u16()
    cache_type: int = u8()


class NvspPdComplete(Format):
    """The answer to a PacketDirect request."""

    operation: PdOperation = u32(PdOperation)
    status: int = u32(doc="an NTSTATUS")
    results: Format | bytes = variant(
        on="operation",
        cases={
            PdOperation.CONFIGURATION: PdConfigurationResult,
            PdOperation.OPEN_PROVIDER: PdProvider,
            PdOperation.CREATE_QUEUE: PdCreateQueueResult,
            PdOperation.ALLOCATE_COMMON_BUFFER: PdAllocateBufferResult,
        },
    )


class PdBuffer(Format):
    """A piece of a common buffer."""

    region_offset: int = u32(unit="bytes")
    region_id: int = u16()
    is_partial: int = bits(1, of=16)
    reserved: int = bits(15, default=0)


class NvspPdPostBatch(Format):
    """Buffers handed over together."""

    count: int = u16()
    guest_to_host: int = bits(1, of=16)
    is_receive: int = bits(1)
    reserved: int = bits(14, default=0)
    buffers: tuple[PdBuffer, ...] = items(PdBuffer, count="count")
