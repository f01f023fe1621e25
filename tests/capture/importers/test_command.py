"""``vmbus import`` writes a capture, or says in one line why it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from vmbus.capture.importers import CannotImport
from vmbus.capture.reader import read_records
from vmbus.cli.imports import app
from vmbus.memory import PAGE_SIZE

LINE = "  <idle>-0 [000] d.h.. 3.25: vmbus_chan_sched: relid 0x5\n"


def run(*arguments: str | Path, stdin: str = "") -> str:
    result = CliRunner().invoke(app, [str(word) for word in arguments], input=stdin, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("source", ["file", "-"])
def test_a_trace_is_imported_with_its_times_moved(tmp_path: Path, source: str) -> None:
    (tmp_path / "trace.txt").write_text(LINE)
    out = tmp_path / "out.pcapng"
    name = "-" if source == "-" else tmp_path / "trace.txt"
    assert run("trace", name, "-w", out, "--epoch", "100", stdin=LINE) == f"1 record in {out}\n"
    assert [record.time_ns for record in read_records(out)] == [103_250_000_000]


def test_sysfs_and_memory_are_imported(tmp_path: Path, sample: Path) -> None:
    sysfs, out = tmp_path / "sysfs.txt", tmp_path / "out.pcapng"
    sysfs.write_text("/sys/bus/vmbus/devices/11111111-2222-3333-4444-555555555555/id:14\n")
    assert "1 record" in run("sysfs", sysfs, "-w", out)
    image = tmp_path / "memory.bin"
    image.write_bytes(bytes(16 * PAGE_SIZE))
    with pytest.raises(CannotImport, match="no ring was found"):
        run("memory", image, "-w", out, "--capture", sample)


def test_a_file_that_is_not_there_or_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CannotImport, match=r"cannot read .*: No such file"):
        run("trace", tmp_path / "none", "-w", tmp_path / "out.pcapng")
    (tmp_path / "trace.txt").write_text(LINE)
    with pytest.raises(CannotImport, match=r"cannot write .*: No such file"):
        run("trace", tmp_path / "trace.txt", "-w", tmp_path / "none" / "out.pcapng")
