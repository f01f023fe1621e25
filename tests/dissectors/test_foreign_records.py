"""Captures of something else, or of something else too: none is taken for sound VMBus, and nothing leaks from them."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from dissectors.exports.scrub import scrub
from dissectors.testing import Script
from dissectors.wireshark.compare import Difference, FieldValue, ShownField
from vmbus.capture import blocks
from vmbus.capture.walk import Damage
from vmbus.cli import main

ETHERNET = 1
SECRET = b"a letter to somebody else..."
NAME_RESOLUTION = 4


def ethernet(path: Path, count: int = 8) -> Path:
    """A capture of frames that have nothing to do with VMBus."""
    frames = b"".join(blocks.enhanced_packet(0, number, SECRET, len(SECRET)) for number in range(count))
    path.write_bytes(blocks.section_header([]) + blocks.interface_description("eth0", link_type=ETHERNET) + frames)
    return path


def merged(disk: Script, folder: Path) -> Path:
    """A sound capture and frames behind it, as mergecap puts them together."""
    whole = folder / "merged.pcapng"
    whole.write_bytes(disk.write(folder / "disk.pcapng").read_bytes() + ethernet(folder / "eth.pcapng").read_bytes())
    return whole


@pytest.mark.parametrize(
    "command",
    [
        ["check"],
        ["check", "--jobs", "2"],
        ["stats"],
        ["stats", "--json"],
        pytest.param(
            ["wireshark", "compare"], marks=pytest.mark.skipif(not shutil.which("tshark"), reason="no tshark")
        ),
    ],
)
def test_a_capture_of_something_else_is_not_called_sound(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ethernet(tmp_path / "eth.pcapng")
    assert main([*command, str(path)]) == 1
    told = capsys.readouterr()
    assert (
        told.err == f"vmbus: {path} has no VMBus records: its 8 are of something else\n" and "nothing" not in told.out
    )


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_records_of_something_else_among_ours_are_counted_for_the_reader(
    jobs: str, disk: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = merged(disk, tmp_path)
    assert main(["check", "--jobs", jobs, str(path)]) == 0
    records = len(disk.records) + 8
    assert f"vmbus: 8 of {records} records are not VMBus records" in capsys.readouterr().err
    assert main(["stats", "--json", "--jobs", jobs, str(path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["unknown"], found["records"]) == (8, records)


def test_scrubbing_leaves_nothing_of_what_it_does_not_understand(disk: Script, tmp_path: Path) -> None:
    source, target = merged(disk, tmp_path), tmp_path / "blank.pcapng"
    name = blocks.block(NAME_RESOLUTION, struct.pack("<HH", 1, 4 + len(SECRET)) + bytes(4) + SECRET)
    torn = b"\x99\x99\x99\x99" + SECRET * 3
    source.write_bytes(source.read_bytes() + name + torn)
    damage: list[Damage] = []
    scrub(source, target, on_damage=damage.append)
    assert SECRET in source.read_bytes() and SECRET not in target.read_bytes()
    assert [found.skipped for found in damage] == [len(torn)]
    assert target.stat().st_size == source.stat().st_size


def test_one_wrong_time_does_not_make_a_table_of_a_million_lines(
    disk: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "late.pcapng"
    late = blocks.enhanced_packet(0, 1 << 62, disk.records[-1][1])
    path.write_bytes(disk.write(tmp_path / "disk.pcapng").read_bytes() + late)
    assert main(["stats", "--json", str(path)]) == 0
    assert len(json.loads(capsys.readouterr().out)["throughput"]) == 2


@pytest.mark.parametrize("what", ["ethernet", "disk", "json", "parquet"])
def test_an_export_never_writes_over_its_capture(
    what: str, disk: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = disk.write(tmp_path / "disk.pcapng")
    before = path.read_bytes()
    link = tmp_path / "link"
    link.symlink_to(path)
    assert main(["export", what, str(path), str(link)]) == 2
    assert path.read_bytes() == before and len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("what", ["ethernet", "disk", "json"])
def test_a_capture_that_cannot_be_read_does_not_cost_the_file_that_is_there(what: str, tmp_path: Path) -> None:
    target = tmp_path / "kept"
    target.write_bytes(b"kept")
    (tmp_path / "empty").write_bytes(b"")
    assert main(["export", what, str(tmp_path / "empty"), str(target)]) == 1
    assert target.read_bytes() == b"kept"


def test_a_disk_that_is_not_in_the_capture_is_an_error(
    disk: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = disk.write(tmp_path / "disk.pcapng")
    assert main(["export", "disk", str(path), str(tmp_path / "image"), "--lun", "9"]) == 1
    told = capsys.readouterr()
    assert "on LUN 9 was recorded" in told.err and not told.out
    assert main(["export", "disk", str(path), str(tmp_path / "image")]) == 0
    assert "of 1 requests the data was recorded only in part" in capsys.readouterr().err


def test_sockets_that_are_not_in_the_capture_are_an_error(
    disk: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = disk.write(tmp_path / "disk.pcapng")
    assert main(["export", "sockets", str(path), str(tmp_path / "folder")]) == 1
    assert capsys.readouterr().err == "vmbus: nothing that a Hyper-V socket sent was recorded\n"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_json_goes_into_a_pipe_as_well(jobs: str, disk: Script, tmp_path: Path) -> None:
    path = disk.write(tmp_path / "disk.pcapng")
    command = [sys.executable, "-m", "vmbus", "export", "json", str(path), "/dev/stdout", "--jobs", jobs]
    lines = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=120).stdout.splitlines()
    assert [json.loads(line)["number"] for line in lines] == list(range(1, len(disk.records) + 1))


@pytest.mark.skipif(not shutil.which("tshark"), reason="no tshark")
def test_a_cut_capture_is_compared_as_far_as_it_goes(
    disk: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = disk.write(tmp_path / "disk.pcapng")
    path.write_bytes(path.read_bytes()[:-20])
    assert main(["wireshark", "compare", str(path)]) == 1
    told = capsys.readouterr()
    assert told.err.startswith("vmbus: tshark: The file") and "[" not in told.err and not told.out


def test_a_comparison_does_not_wait_for_a_tshark_that_complains_at_length(disk: Script, tmp_path: Path) -> None:
    tshark = tmp_path / "tshark"
    tshark.write_text("#!/bin/sh\nhead -c 300000 /dev/zero | tr '\\0' x >&2\necho '<pdml></pdml>'\n")
    tshark.chmod(0o755)
    command = [sys.executable, "-m", "vmbus", "wireshark", "compare", str(disk.write(tmp_path / "disk.pcapng"))]
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    compared = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    assert compared.returncode == 1 and b"tshark has no more" in compared.stdout


def test_a_difference_reads_as_a_sentence() -> None:
    ours = FieldValue("vmbus.ring.packet_descriptor.flags", 4, 2, 1)
    theirs = ShownField("vmbus.ring.packet_descriptor.flags", 4, 2, "2", "0002", "flags: 2")
    told = "record 3: our tree has vmbus.ring.packet_descriptor.flags at 4, 2 bytes: 1; tshark has no more"
    assert str(Difference(3, ours, None)) == told
    assert str(Difference(3, None, theirs)).endswith("flags at 4, 2 bytes: flags: 2")
