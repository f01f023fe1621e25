"""What our host and our guest really say to each other decodes to the last field, in every face, and breaks no rule."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dissectors.engine import Decoded, Session
from dissectors.engine.source import decode_capture
from dissectors.engine.summary import Summary
from dissectors.exports.ethernet import export_frames
from dissectors.rules import check_all
from dissectors.testing import Script
from dissectors.wireshark.compare import differences

NAMELESS = frozenset({"data", "rest", "unknown"})


def nameless_bytes(item: Decoded) -> list[str]:
    """Fields that are called nothing in particular, and bytes that no field shows."""
    leaves = [node for node in item.tree if not node.children and node.size]
    shown = bytearray(len(item.data))
    for node in leaves:
        shown[node.offset : node.offset + node.size] = b"\1" * node.size
    missing = [f"byte {at}" for at, is_shown in enumerate(shown) if not is_shown]
    return missing + [node.name for node in leaves if node.name in NAMELESS]


def test_no_byte_lies_in_a_field_without_a_name(recorded: Path) -> None:
    items = list(decode_capture(str(recorded)))
    assert len(items) > 200
    assert [(item.number, found) for item in items if (found := nameless_bytes(item))] == []


@pytest.mark.parametrize("conversation", ["disk", "card"])
def test_no_byte_of_a_written_conversation_does_either(conversation: str, request: pytest.FixtureRequest) -> None:
    script: Script = request.getfixturevalue(conversation)
    assert [(item.number, found) for item in script.decode() if (found := nameless_bytes(item))] == []


def test_nothing_is_odd_about_it(recorded: Path) -> None:
    session = Session()
    items = list(decode_capture(str(recorded), session=session))
    assert [(item.number, item.problems) for item in items if item.problems] == []
    assert {life.name for life in session.lives} == {"scsi", "net"}


def test_no_rule_is_struck(recorded: Path) -> None:
    session = Session()
    assert check_all(session, decode_capture(str(recorded), session=session)) == []


def test_every_request_is_paired_with_its_completion(recorded: Path) -> None:
    rows = [row.as_dict() for row in Summary().add_all(decode_capture(str(recorded))).rows]
    for row in rows:
        if row["protocol"] in ("vstor", "nvsp"):
            assert row["requests"] == row["completed"] > 0
            assert 0 < row["median_us"] <= row["p99_us"]


@pytest.mark.tshark
@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_tshark_shows_every_field_as_we_do(recorded: Path) -> None:
    assert list(differences(recorded)) == []


def run(*arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "vmbus", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)


def test_vmbus_read_prints_one_line_a_record_from_a_file_or_a_pipe(recorded: Path) -> None:
    lines = run("read", str(recorded)).stdout.splitlines()
    assert lines == run("read", "-", stdin=recorded.read_bytes()).stdout.splitlines()
    assert any(b"EXECUTE_SRB" in line and b"READ_1" in line for line in lines)


def test_vmbus_read_prints_json_that_holds_every_layer(recorded: Path) -> None:
    lines = run("read", str(recorded), "--json", "-Y", "opcode == READ_10 || opcode == READ_16").stdout
    objects = [json.loads(line) for line in lines.splitlines()]
    assert objects and all("PacketDescriptor" in entry["layers"][1] for entry in objects)


def test_a_capture_cut_anywhere_shows_its_sound_records_and_no_traceback(recorded: Path, tmp_path: Path) -> None:
    whole = recorded.read_bytes()
    cut = tmp_path / "cut.pcapng"
    for length in (900, 1000, 5001, len(whole) - 3):
        cut.write_bytes(whole[:length])
        result = run("read", str(cut))
        assert b"Traceback" not in result.stderr
        assert result.returncode == 0 and b"the capture ends within a block" in result.stderr


def test_what_is_no_capture_ends_in_one_line_and_status_1(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a capture\n" * 9)
    result = run("read", str(tmp_path / "text"))
    assert result.returncode == 1
    assert result.stderr.count(b"\n") == 1 and b"not a pcapng capture" in result.stderr


def test_records_of_another_link_type_are_noted_one_by_one(card: Script, tmp_path: Path) -> None:
    with (tmp_path / "frames.pcapng").open("wb") as file:
        export_frames(card.decode(), file)
    result = run("read", str(tmp_path / "frames.pcapng"))
    assert result.returncode == 0
    assert result.stdout.count(b"link type 1 is not that of VMBus records") == 2


def test_wrong_options_end_in_status_2(recorded: Path) -> None:
    assert run("read", str(recorded), "-Y", "nothing == 1").returncode == 2
    assert run("read", str(recorded), "-d", "3=nonsense").returncode == 2
    assert run("read").returncode == 2


def test_vmbus_check_ends_in_status_0_for_sound_traffic_and_1_for_errors(recorded: Path, script: Script) -> None:
    assert run("check", str(recorded)).returncode == 0
    script.packet(1, 3, b"", transaction=5, wants_completion=True)  # type: ignore[arg-type]
    script.wait(10)
    script.note("later")
    result = run("check", "-", stdin=b"".join(script.blocks()))
    assert result.returncode == 1 and b"EX-04" in result.stdout
