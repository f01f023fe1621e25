"""GUIDs of VMBus: what kind of device an interface id names, and the instance ids that are the same in every VM.

Sources: Linux 6.12 ``include/linux/hyperv.h`` (``HV_*_GUID``); openvmm (``storvsp_protocol``, ``netvsp``,
``vpci_protocol``, ``hyperv_ic_protocol``, ``uidevices``, ``vmbus_serial_protocol``, ``get_protocol``, ``vmbfs``,
``support/hybrid_vsock``); mu_msvm ``MsvmPkg/MsvmPkg.dec``; Mile.HyperV (names from Microsoft's symbols); the
dxgkrnl patches on the linux-hyperv list.

Where sources disagree, ``Interface.conflict`` says how.  Two GUIDs that other tools list are slips and stand here
only as a warning: ``35fa2e29-ea23-4236-ae96-...`` (chipsec's ``HV_VSS_GUID``; the right one has ``96ae``) and
``c376c1c3-d073-...`` (not the IMC interface, which is ``c376c1c3-d276-...``).
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

NETWORK = UUID("f8615163-df3e-46c5-913f-f2d2f965ed0e")
SCSI = UUID("ba6163d9-04a1-4d29-b605-72e2ffb1dc7f")
IDE = UUID("32412632-86cb-44a2-9b5c-50d1417354f5")
FIBRE_CHANNEL = UUID("2f9bcc4a-0069-4af3-b76b-6fd0be528cda")
NETWORK_DIRECT = UUID("8c2eaf3d-32a7-4b09-ab99-bd1f1c86b501")
VPCI = UUID("44c4f61d-4444-4400-9d52-802e27ede19f")
VIDEO = UUID("da0a7802-e377-4aac-8e77-0558eb1073f8")
VIDEO_3D = UUID("113560ea-48cd-4bd1-8828-fcec44e2b5d5")
KEYBOARD = UUID("f912ad6d-2b17-48ea-bd65-f927a61c7684")
MOUSE = UUID("cfa8b69e-5b4a-4cc0-b98b-8ba1a1f3f95a")
SHUTDOWN = UUID("0e0b6031-5213-4934-818b-38d90ced39db")
TIMESYNC = UUID("9527e630-d0ae-497b-adce-e80ab0175caf")
HEARTBEAT = UUID("57164f39-9115-4e78-ab55-382f3bd5422d")
KVP = UUID("a9a0f4e7-5a45-4d96-b827-8a841e8c03e6")
VSS = UUID("35fa2e29-ea23-4236-96ae-3a6ebacba440")
GUEST_SERVICES = UUID("34d14be3-dee4-41c8-9ae7-6b174977c192")
RDV = UUID("276aacf4-ac15-426c-98dd-7521ad3f01fe")
IC_NEGOTIATE = UUID("9722c3e7-8f86-456d-8b6c-6009da4ccd0b")
DYNAMIC_MEMORY = UUID("525074dc-8985-46e2-8057-a307dc18a502")
INHERITED_ACTIVATION = UUID("3375baf4-9e15-4b30-b765-67acb10d607b")
RDP_CONTROL = UUID("f8e65716-3cb3-4a06-9a60-1889c5cccab5")
RDP_DATA = UUID("f9e9c0d3-b511-4a48-8046-d38079a8830c")
VSMB = UUID("4d12e519-17a0-4ae4-8eaa-5270fc6abdb7")
VMBFS = UUID("c376c1c3-d276-48d2-90a9-c04748072c60")
SERIAL = UUID("8b60ccf6-709f-4c11-90b5-229c959a9e6a")
GUEST_EMULATION = UUID("8dedd1aa-9056-49e4-bfd6-1bf90dc38ef0")
CRASH_DUMP = UUID("427b03e7-4ceb-4286-b5fc-486f4a1dd439")
DXGKRNL_GLOBAL = UUID("dde9cbc0-5060-4436-9448-ea1254a5d177")
DXGKRNL_VGPU = UUID("6e382d18-3336-4f4b-acc4-2b7703d4df4a")


class Interface(NamedTuple):
    """What an interface id stands for."""

    name: str
    """Short and stable, as filters and file names use it."""
    title: str
    conflict: str = ""
    """Which sources call it something else."""


INTERFACES: dict[UUID, Interface] = {
    NETWORK: Interface("net", "synthetic network (NVSP)"),
    SCSI: Interface("scsi", "synthetic SCSI controller"),
    IDE: Interface("ide", "IDE accelerator"),
    FIBRE_CHANNEL: Interface("fc", "synthetic fibre channel"),
    NETWORK_DIRECT: Interface("nd", "NetworkDirect RDMA"),
    VPCI: Interface("vpci", "virtual PCI"),
    VIDEO: Interface("video", "synthetic video"),
    VIDEO_3D: Interface("video3d", "synthetic 3D video"),
    KEYBOARD: Interface("keyboard", "synthetic keyboard"),
    MOUSE: Interface("mouse", "synthetic mouse (HID)"),
    SHUTDOWN: Interface("shutdown", "shutdown integration service"),
    TIMESYNC: Interface("timesync", "time synchronization integration service"),
    HEARTBEAT: Interface("heartbeat", "heartbeat integration service"),
    KVP: Interface("kvp", "key-value pair integration service"),
    VSS: Interface("vss", "volume snapshot integration service"),
    GUEST_SERVICES: Interface("guest-services", "guest services: file copy"),
    RDV: Interface("rdv", "remote desktop virtualization"),
    IC_NEGOTIATE: Interface("ic-negotiate", "integration service negotiation"),
    DYNAMIC_MEMORY: Interface("balloon", "dynamic memory"),
    INHERITED_ACTIVATION: Interface("avma", "inherited activation", "Linux: HV_AVMA2_GUID"),
    RDP_CONTROL: Interface(
        "rdp-control",
        "synthetic remote desktop, control",
        "Linux: HV_AVMA1_GUID; Microsoft's symbols: SYNTHRDP_CONTROL_CLASS_ID, and other guests agree with those",
    ),
    RDP_DATA: Interface("rdp-data", "synthetic remote desktop, data"),
    VSMB: Interface("vsmb", "virtual SMB"),
    VMBFS: Interface("vmbfs", "initial machine configuration files (IMC)"),
    SERIAL: Interface("serial", "VMBus serial port"),
    GUEST_EMULATION: Interface(
        "get",
        "guest emulation transport",
        "the transport and the guest emulation log share it and differ by instance",
    ),
    CRASH_DUMP: Interface("crash", "guest crash dump"),
    DXGKRNL_GLOBAL: Interface("dxg", "paravirtual GPU, global"),
    DXGKRNL_VGPU: Interface("dxg-vgpu", "paravirtual GPU, adapter"),
}

INSTANCES: dict[UUID, str] = {
    UUID("b6650ff7-33bc-4840-8048-e0676786f393"): "shutdown",
    UUID("242ff919-07db-4180-9c2e-b86cb68c8c55"): "kvp",
    UUID("2dd1ce17-079e-403c-b352-a1921ee207ee"): "timesync",
    UUID("fd149e91-82e0-4a7d-afa6-2a4166cbd7c0"): "heartbeat",
    UUID("2450ee40-33bf-4fbd-892e-9fb06e9214cf"): "vss",
    UUID("f5bee29c-1741-4aad-a4c2-8fdedb46dcc2"): "rdv",
    UUID("eb765408-105f-49b6-b4aa-c123b64d17d4"): "guest-services",
    UUID("d34b2567-b9b6-42b9-8778-0a4ec0b955bf"): "keyboard",
    UUID("58f75a6d-d949-4320-99e1-a2a2576d581c"): "mouse",
    UUID("700df40e-b947-4776-b839-d1b0a35af034"): "com1",
    UUID("7e55f4b8-af84-4e98-9f1a-8e8d0bde3744"): "com2",
    UUID("3f158fa1-b0aa-45e9-ba54-9fc73f6c59ec"): "com3",
    UUID("8688a06f-9b53-48ce-b408-7581626228c5"): "com4",
    UUID("c4e5e7d1-d748-4afc-979d-683167910a55"): "vmbfs",
    UUID("d3e4454d-62af-44ec-b851-3170915e5f56"): "get",
    UUID("aa5de534-d149-487a-9053-05972ba20a7c"): "gel",
    UUID("99221fa1-24ad-11e2-be98-001aa01bbf6e"): "rdp-data-1",
    UUID("99221fa2-24ad-11e2-be98-001aa01bbf6e"): "rdp-data-2",
    UUID("99221fa3-24ad-11e2-be98-001aa01bbf6e"): "rdp-data-3",
    UUID("99221fa4-24ad-11e2-be98-001aa01bbf6e"): "rdp-data-4",
    UUID("99221fa5-24ad-11e2-be98-001aa01bbf6e"): "rdp-data-5",
}
"""Instance ids that do not differ between virtual machines."""

CLIENTS: dict[UUID, str] = {
    UUID("ceb1cd55-6a3b-41c5-9473-4dd30624c3d8"): "OpenHCL",
    UUID("18dd3964-3e8a-4e42-86fa-c8e6b191ee0e"): "UEFI",
}
"""Client ids that guests send in InitiateContact (openvmm ``worker.rs``, mu_msvm ``gMsvmVmbusClientGuid``)."""

VSOCK_TEMPLATE = UUID("00000000-facb-11e6-bd58-64006a7986d3")
"""The service id of an AF_VSOCK port: the port number takes the place of the first 32 bits."""


def vsock_service(port: int) -> UUID:
    """The service id of an AF_VSOCK port."""
    return UUID(int=port << 96 | VSOCK_TEMPLATE.int)


def vsock_port(service: UUID) -> int | None:
    """The AF_VSOCK port of a service id; None if it is not one."""
    return service.int >> 96 if service.int & ((1 << 96) - 1) == VSOCK_TEMPLATE.int else None


def interface_name(interface_id: UUID) -> str:
    """A short name for an interface id: its own, ``vsock:PORT``, or the first eight digits."""
    known = INTERFACES.get(interface_id)
    if known:
        return known.name
    port = vsock_port(interface_id)
    return str(interface_id)[:8] if port is None else f"vsock:{port}"
