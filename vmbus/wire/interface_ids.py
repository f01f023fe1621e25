"""The interface GUIDs of VMBus devices and what they are called.

An offer names the kind of its device by such a GUID. Sources: openvmm (each protocol's ``INTERFACE_GUID`` and the
like), Linux 6.12 ``include/linux/hyperv.h`` (``HV_*_GUID``), mu_msvm ``MsvmPkg.dec``, Mile.HyperV (Microsoft's own
symbol names), the Linux patches of dxgkrnl. Where sources disagree, ``remark`` says so.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

HVSOCK_TEMPLATE = UUID("00000000-facb-11e6-bd58-64006a7986d3")
"""Interface ids of Linux's AF_VSOCK ports: the first 32 bits are the port (openvmm ``hybrid_vsock``)."""


class InterfaceName(NamedTuple):
    """How people call a kind of device."""

    short: str
    """One word, as on a command line: ``scsi``."""
    title: str
    remark: str = ""


INTERFACE_NAMES: dict[UUID, InterfaceName] = {
    UUID(text): name
    for text, name in {
        "f8615163-df3e-46c5-913f-f2d2f965ed0e": InterfaceName("net", "Network"),
        "ba6163d9-04a1-4d29-b605-72e2ffb1dc7f": InterfaceName("scsi", "SCSI controller"),
        "32412632-86cb-44a2-9b5c-50d1417354f5": InterfaceName("ide", "IDE accelerator"),
        "2f9bcc4a-0069-4af3-b76b-6fd0be528cda": InterfaceName("fc", "Fibre channel"),
        "8c2eaf3d-32a7-4b09-ab99-bd1f1c86b501": InterfaceName("rdma", "NetworkDirect RDMA"),
        "44c4f61d-4444-4400-9d52-802e27ede19f": InterfaceName("vpci", "Virtual PCI"),
        "da0a7802-e377-4aac-8e77-0558eb1073f8": InterfaceName("video", "Synthetic video"),
        "113560ea-48cd-4bd1-8828-fcec44e2b5d5": InterfaceName("video3d", "Synthetic 3D video"),
        "f912ad6d-2b17-48ea-bd65-f927a61c7684": InterfaceName("keyboard", "Keyboard"),
        "cfa8b69e-5b4a-4cc0-b98b-8ba1a1f3f95a": InterfaceName("mouse", "Mouse"),
        "0e0b6031-5213-4934-818b-38d90ced39db": InterfaceName("shutdown", "Shutdown"),
        "9527e630-d0ae-497b-adce-e80ab0175caf": InterfaceName("timesync", "Time synchronization"),
        "57164f39-9115-4e78-ab55-382f3bd5422d": InterfaceName("heartbeat", "Heartbeat"),
        "a9a0f4e7-5a45-4d96-b827-8a841e8c03e6": InterfaceName("kvp", "Key-value pairs"),
        "35fa2e29-ea23-4236-96ae-3a6ebacba440": InterfaceName("vss", "Volume shadow copies"),
        "34d14be3-dee4-41c8-9ae7-6b174977c192": InterfaceName("fcopy", "Guest services, file copy"),
        "276aacf4-ac15-426c-98dd-7521ad3f01fe": InterfaceName("rdv", "Remote desktop virtualization"),
        "9722c3e7-8f86-456d-8b6c-6009da4ccd0b": InterfaceName("ic", "Integration component negotiation"),
        "525074dc-8985-46e2-8057-a307dc18a502": InterfaceName("dm", "Dynamic memory"),
        "3375baf4-9e15-4b30-b765-67acb10d607b": InterfaceName("ia", "Inherited activation", "AVMA2 in Linux"),
        "f8e65716-3cb3-4a06-9a60-1889c5cccab5": InterfaceName(
            "rdp-control", "Synthetic RDP control", "HV_AVMA1_GUID in Linux; Microsoft's symbols say RDP"
        ),
        "f9e9c0d3-b511-4a48-8046-d38079a8830c": InterfaceName("rdp-data", "Synthetic RDP data"),
        "4d12e519-17a0-4ae4-8eaa-5270fc6abdb7": InterfaceName("vsmb", "Virtual SMB"),
        "c376c1c3-d276-48d2-90a9-c04748072c60": InterfaceName("vmbfs", "File system of a boot image"),
        "8b60ccf6-709f-4c11-90b5-229c959a9e6a": InterfaceName("serial", "Serial port"),
        "8dedd1aa-9056-49e4-bfd6-1bf90dc38ef0": InterfaceName(
            "get", "Guest emulation", "transport and log share it and differ by their instances"
        ),
        "427b03e7-4ceb-4286-b5fc-486f4a1dd439": InterfaceName("crash", "Guest crash dump"),
        "dde9cbc0-5060-4436-9448-ea1254a5d177": InterfaceName("dxg", "GPU paravirtualization, global"),
        "6e382d18-3336-4f4b-acc4-2b7703d4df4a": InterfaceName("vgpu", "GPU paravirtualization, adapter"),
    }.items()
}


def interface_name(interface_id: UUID) -> InterfaceName | None:
    """What a kind of device is called; None for one that nobody has named."""
    found = INTERFACE_NAMES.get(interface_id)
    if found is None and interface_id.bytes[4:] == HVSOCK_TEMPLATE.bytes[4:]:
        return InterfaceName("vsock", f"Socket, port {interface_id.int >> 96}")
    return found
