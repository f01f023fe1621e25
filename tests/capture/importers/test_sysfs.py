"""A snapshot of /sys/bus/vmbus becomes offers and notes."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbus.capture.importers import CannotImport, write_capture
from vmbus.capture.importers.sysfs import read_snapshot, records_of_sysfs
from vmbus.capture.reader import read_records
from vmbus.wire.guids import NETWORK, SCSI
from vmbus.wire.offer import OfferChannel

CARD = UUID("11111111-2222-3333-4444-555555555555")
DISK = UUID("99999999-2222-3333-4444-555555555555")

FILES = {
    f"{CARD}/id": "14",
    f"{CARD}/class_id": f"{{{NETWORK}}}",
    f"{CARD}/state": "3",
    f"{CARD}/monitor_id": "2",
    f"{CARD}/out_read_index": "128",
    f"{CARD}/channel_vp_mapping": "14:0\n15:1",
    f"{CARD}/channels/14/subchannel_id": "0",
    f"{CARD}/channels/14/cpu": "0",
    f"{CARD}/channels/15/subchannel_id": "1",
    f"{CARD}/channels/15/interrupts": "77",
    f"{DISK}/id": "2",
    f"{DISK}/class_id": f"{{{SCSI}}}",
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "sys" / "devices" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return tmp_path / "sys"


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "vmbus.txt"
    found = [f"/sys/bus/vmbus/devices/{name}:{line}" for name, text in FILES.items() for line in text.split("\n")]
    path.write_text("grep: some error\n" + "\n".join(found))
    return path


@pytest.mark.parametrize("kind", ["directory", "lines"])
def test_each_channel_is_offered_and_each_device_described(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    devices = read_snapshot(request.getfixturevalue(kind))
    write_capture(tmp_path / "out.pcapng", records_of_sysfs(devices, 5))
    found = list(read_records(tmp_path / "out.pcapng"))
    assert all(record.is_snapshot and not record.problem for record in found)
    offers = [OfferChannel.parse(record.body, 8) for record in found if record.body[:4] == b"\1\0\0\0"]
    assert [(offer.instance_id, offer.channel_id, offer.subchannel_index) for offer in offers] == [
        (CARD, 14, 0),
        (CARD, 15, 1),
        (DISK, 2, 0),
    ]
    assert [(offer.monitor_id, offer.monitor_allocated) for offer in offers] == [(2, 1), (255, 0), (255, 0)]
    notes = [record.body.decode() for record in found if b"device" in record.body]
    assert notes[0] == (
        f"device {CARD}, channel 14: state opened; out_read_index 128; channel 14: cpu 0; channel 15: interrupts 77"
    )


def test_what_has_no_devices_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(CannotImport, match="has no VMBus devices"):
        read_snapshot(tmp_path)
    with pytest.raises(CannotImport, match="No such file"):
        read_snapshot(tmp_path / "none")


@given(st.dictionaries(st.sampled_from(["id", "class_id", "state", "channels/1/subchannel_id"]), st.text(max_size=50)))
def test_no_attribute_ends_in_a_traceback(attributes: dict[str, str]) -> None:
    assert list(records_of_sysfs({CARD: attributes}))
