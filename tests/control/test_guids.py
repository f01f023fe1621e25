"""Names of devices, and what the hypervisor's formats look like in memory."""

from __future__ import annotations

from uuid import UUID

from vmbus.wire import guids
from vmbus.wire.hypervisor import (
    MONITOR_LATENCY_OFFSET,
    MONITOR_PARAMETER_OFFSET,
    MONITOR_PENDING_OFFSET,
    HvMessage,
    HvMessageHeader,
    HvMessageType,
    MonitorGroup,
    MonitorPage,
    MonitorParameter,
    Msr,
    SintRegister,
    SynicPage,
)


def test_interfaces_have_names_and_conflicts_are_told():
    assert guids.interface_name(guids.SCSI) == "scsi"
    assert guids.interface_name(guids.vsock_service(1024)) == "vsock:1024"
    assert guids.interface_name(UUID(int=0xABCDEF01 << 96)) == "abcdef01"
    assert "HV_AVMA1_GUID" in guids.INTERFACES[guids.RDP_CONTROL].conflict
    names = [interface.name for interface in guids.INTERFACES.values()]
    assert len(set(names)) == len(names)


def test_a_vsock_port_is_part_of_its_service_id():
    service = guids.vsock_service(0x400)
    assert str(service) == "00000400-facb-11e6-bd58-64006a7986d3"
    assert guids.vsock_port(service) == 0x400
    assert guids.vsock_port(guids.SCSI) is None


def test_instances_and_clients_do_not_repeat():
    assert len(set(guids.INSTANCES.values())) == len(guids.INSTANCES)
    assert set(guids.CLIENTS.values()) == {"OpenHCL", "UEFI"}


def test_a_message_slot_has_256_bytes():
    slot = HvMessage(header=HvMessageHeader(message_type=HvMessageType.VMBUS, payload_size=8), payload=b"12345678")
    assert len(slot.build()) == 256
    assert slot.build()[:6] == b"\1\0\0\0\x08\0"
    assert slot.build()[16:24] == b"12345678"


def test_a_monitor_page_has_4_kib_and_its_parts_lie_where_linux_expects_them():
    groups = (MonitorGroup(pending=0xAABBCCDD), *[MonitorGroup()] * 3)
    parameters = (MonitorParameter(connection_id=0x2001, flag_number=7), *[MonitorParameter()] * 127)
    data = MonitorPage(groups=groups, latency=(100, *[0] * 127), parameters=parameters).build()
    assert len(data) == 4096
    assert data[MONITOR_PENDING_OFFSET : MONITOR_PENDING_OFFSET + 4] == bytes.fromhex("ddccbbaa")
    assert data[MONITOR_LATENCY_OFFSET] == 100
    assert data[MONITOR_PARAMETER_OFFSET : MONITOR_PARAMETER_OFFSET + 6] == bytes.fromhex("012000000700")


def test_synic_registers_are_bit_fields():
    assert SynicPage.parse((0x12345001).to_bytes(8, "little")).base_pfn == 0x12345
    sint = SintRegister.parse((0x1_00F3).to_bytes(8, "little"))
    assert (sint.vector, sint.masked, sint.auto_eoi) == (0xF3, 1, 0)
    assert Msr.SINT0 + 2 == Msr.SINT2
