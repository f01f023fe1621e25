"""The sizes that the sources assert of their structures, held against our declarations."""

from __future__ import annotations

import pytest

from vmbus.wire import crash, dynamic_memory, keyboard, mouse, pipe, serial, video, vmbfs, vpci, vpci_resources
from vmbus.wire.gel import LogMessage
from vmbus.wire.get import notifications, requests, responses
from vmbus.wire.ic import fcopy, framework, heartbeat, kvp, shutdown, values, vss
from vmbus.wire.schema import Format

GET_HEADER = 4

SIZES: list[tuple[type[Format], int]] = [
    # openvmm uidevices/src/mouse/protocol.rs (const_assert_eq)
    (mouse.HidAttributes, 0x20),
    (mouse.HidDescriptor, 9),
    (mouse.HidDescriptorList, 3),
    (mouse.MouseMessage, 8),
    (mouse.MouseProtocolRequest, 4),
    (mouse.MouseProtocolResponse, 5),
    (mouse.MouseDeviceInfo, 169 - 128),
    (mouse.MouseDeviceInfoAck, 1),
    (mouse.MouseInputReport, 7),
    # openvmm uidevices/src/keyboard/protocol.rs
    (keyboard.Keystroke, 8),
    (keyboard.LedIndicators, 4),
    # Linux hyperv_drm_proto.c, all packed
    (video.VramLocation, 17),
    (video.VideoOutputSituation, 18),
    (video.SituationUpdate, 9),
    (video.PointerPosition, 10),
    (video.PointerShape, 18),
    (video.SupportedResolutionsResponse, 131),
    (video.FeatureChangeV2, 132),
    (video.CapabilityResponse, 64),
    (video.BiosInfoResponse, 16),
    # openvmm vmbus_serial_protocol/src/lib.rs (const_assert_eq), less the four bytes of header
    (serial.TxDataAvailable, 70 - 4),
    (serial.SetModemStatus, 6 - 4),
    (serial.SerialVersionRequest, 8 - 4),
    (serial.SerialVersionResponse, 6 - 4),
    (serial.RxDataResponse, 70 - 4),
    # mu_msvm VmbusPacketFormat.h, packed
    (pipe.PipeSetupGpaDirect, 9),
    # mu_msvm VmbusFileSystem.h (STATIC_ASSERT_VMBFS_MESSAGE_SIZE), less the header
    (vmbfs.VmbfsMessage, 8),
    (vmbfs.GetFileInfoResponse, 16),
    (vmbfs.ReadFileRequest, 12),
    (vmbfs.ReadFileResponse, 4),
    (vmbfs.ReadFileRdmaRequest, 24),
    (vmbfs.ReadFileRdmaResponse, 8),
    # openvmm hyperv_ic_protocol; Linux include/linux/hyperv.h
    (framework.IcMessage, 20),
    (framework.IcNegotiate, 8),
    (values.IcVersion, 4),
    (shutdown.ShutdownMessage, 12 + 2048),
    (heartbeat.HeartbeatMessage, 16 - 4),
    (kvp.KvpExchange, 2 + 12 + 512),
    (kvp.KvpAddressText, 0x1D02),
    (vss.VssLun, 24),
    (vss.VssLuns, 6260 - 8),
    (vss.VssShadowLuns, 12500 - 8),
    (fcopy.FcopyMessage, 36),
    (fcopy.FcopyStart, 520 + 520 + 4 + 8),
    # openvmm get_protocol/src/lib.rs (const_assert_eq), less the four bytes of header
    (notifications.PowerOff, 6 - GET_HEADER),
    (notifications.EventLog, 8 - GET_HEADER),
    (notifications.LogTrace, 520 - GET_HEADER),
    (notifications.VtlCrash, 64 - GET_HEADER),
    (notifications.RegisterState, 20),
    (notifications.TripleFault, 16 - GET_HEADER),
    (notifications.UpdateGenerationId, 24 - GET_HEADER),
    (notifications.SaveStateRequest, 30 - GET_HEADER),
    (notifications.VpciDeviceNotification, 24 - GET_HEADER),
    (notifications.ModifySettingsPart, 12 - GET_HEADER),
    (notifications.OutcomeDocument, 12 - GET_HEADER),
    (notifications.InjectDebugInterrupt, 6 - GET_HEADER),
    (requests.GetVersionRequest, 8 - GET_HEADER),
    (requests.IgvmAttestRequest, 6288 - GET_HEADER),
    (requests.BiosBootFinalizeRequest, 6 - GET_HEADER),
    (requests.VmgsReadRequest, 24 - GET_HEADER),
    (requests.VmgsWriteRequest, 24 - GET_HEADER),
    (requests.ActivityTraceStartRequest, 28 - GET_HEADER),
    (requests.ActivityTraceOpRequest, 48 - GET_HEADER),
    (requests.EventTraceRequest, 12 - GET_HEADER),
    (requests.GspCleartext, 68),
    (requests.GspCiphertext, 516),
    (requests.GuestStateProtectionRequest, 1108 - GET_HEADER),
    (requests.VpciDeviceControlRequest, 24 - GET_HEADER),
    (requests.VpciBindingChangeRequest, 21 - GET_HEADER),
    (requests.VgaPciReadRequest, 6 - GET_HEADER),
    (requests.VgaPciWriteRequest, 10 - GET_HEADER),
    (requests.CreateRamRangeRequest, 40 - GET_HEADER),
    (requests.LoadFirmwareRequest, 12 - GET_HEADER),
    (responses.GetVersionResponse, 6 - GET_HEADER),
    (responses.TimeResponse, 32 - GET_HEADER),
    (responses.VmgsGetDeviceInfoResponse, 24 - GET_HEADER),
    (responses.VmgsReadResponse, 8 - GET_HEADER),
    (responses.GuestStateProtectionByIdResponse, 76 - GET_HEADER),
    (responses.ActivityTraceStartResponse, 20 - GET_HEADER),
    (responses.GuestStateProtectionResponse, 660 - GET_HEADER),
    (responses.RestoreStateResponse, 10 - GET_HEADER),
    (responses.VpciBindingChangeResponse, 24 - GET_HEADER),
    (responses.LoadFirmwareResponse, 16 - GET_HEADER),
    (LogMessage, 80),
    # openvmm get_protocol/src/crash.rs
    (crash.CrashMessage, 24),
    (crash.DumpWriteRequest, 12),
    (crash.DumpCompleteRequest, 265),
    # openvmm vpci_protocol/src/lib.rs; Linux pci-hyperv.c, less the message type
    (vpci_resources.PnpId, 12),
    (vpci_resources.DeviceDescription, 20),
    (vpci_resources.DeviceDescription2, 28),
    (vpci_resources.PartialResourceDescriptor, 0x14),
    (vpci_resources.MsiDescriptor, 16),
    (vpci_resources.MsiDescriptor2, 72),
    (vpci_resources.MsiDescriptor3Padded, 80),
    (vpci_resources.MsiRemapped, 16),
    (vpci_resources.MsiRemapped2, 72),
    (vpci.AssignedResources, 136 - 4),
    (vpci.GetResources, 32 - 4),
    (vpci.FdoD0Entry, 16 - 4),
    (vpci.CreateInterrupt, 24 - 4),
    (vpci.InterruptCompletion, 24),
    (vpci.ResourcesCompletion, 128),
    (vpci.PowerCompletion, 16),
    # Linux drivers/hv/hv_balloon.c, all packed
    (dynamic_memory.MemoryMessage, 8),
    (dynamic_memory.Capabilities, 24),
    (dynamic_memory.StatusReport, 40),
    (dynamic_memory.BalloonResponse, 8),
    (dynamic_memory.HotAddRequest, 8),
]


@pytest.mark.parametrize(("fmt", "size"), SIZES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_structure_has_the_size_that_its_source_asserts(fmt: type[Format], size: int) -> None:
    assert size == fmt.SIZE


def test_a_kvp_message_has_the_size_of_windows_structures() -> None:
    exchange = kvp.KvpMessage(
        operation=kvp.KvpOperation.SET,
        pool=kvp.KvpPool.EXTERNAL,
        body=kvp.KvpEnumerate(index=0, value=kvp.KvpText(text=b"")),
    )
    assert len(exchange.build()) == 2 + 2578
    binary = kvp.KvpAddressBinary
    assert 2 + binary.SIZE <= 2 + 0x1D02 and binary.FIELDS[0].name == "padding"


def test_hyper_v_s_edid_has_a_sound_checksum_and_its_mouse_67_bytes_of_descriptor() -> None:
    assert len(video.EDID_BLOCK) == video.EDID_SIZE and sum(video.EDID_BLOCK) % 256 == 0
    assert b"HyperVMonitor" in video.EDID_BLOCK
    assert len(mouse.REPORT_DESCRIPTOR) == 67
