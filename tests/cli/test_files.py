"""No command writes over what it reads, whatever the file is called."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vmbus.cli import main
from vmbus.cli.files import check_output
from vmbus.errors import OptionError


@pytest.mark.parametrize("link", [os.symlink, os.link, shutil.copy], ids=["symbolic", "hard", "a copy"])
def test_a_file_is_the_same_by_any_of_its_names(tmp_path: Path, link: object) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_bytes(b"data")
    link(file, other)  # type: ignore[operator]
    if link is shutil.copy:
        check_output(file, other)
        return
    for target, source in ((file, other), (other, file), (file, file)):
        with pytest.raises(OptionError, match="what this command reads"):
            check_output(target, tmp_path / "nothing", source)


def test_what_is_not_there_and_what_is_no_file_may_be_both(tmp_path: Path) -> None:
    check_output(tmp_path / "new", tmp_path / "new")
    check_output(Path("/dev/null"), Path("/dev/null"))


def test_standard_output_may_be_the_file_that_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"data")
    script = "from pathlib import Path; from vmbus.cli.files import check_output; check_output(Path('-'), Path('-'))"
    with file.open("rb") as read, file.open("ab") as written:
        done = subprocess.run([sys.executable, "-c", script], stdin=read, stdout=written, stderr=subprocess.PIPE)
    assert b"cannot write -" in done.stderr
    assert file.read_bytes() == b"data"


@pytest.mark.parametrize(
    "arguments",
    [
        ["host", "unix:socket", "--scsi", "disk", "-w", "link"],
        ["host", "unix:socket", "--scsi", "link,readonly", "-w", "disk"],
        ["host", "unix:socket", "--scsi", "overlay:disk", "-w", "disk"],
        ["host", "unix:socket", "--scsi", "disk", "--state", "disk"],
        ["capture", "disk", "-w", "disk"],
        ["capture", "link", "-w", "disk"],
        ["import", "trace", "disk", "-w", "link"],
        ["import", "memory", "disk", "-w", "disk"],
        ["import", "sysfs", "disk", "-w", "disk"],
        ["guest", "run", "unix:socket", "--script", "disk", "--console", "link"],
    ],
    ids=" ".join,
)
def test_what_a_command_reads_is_left_as_it_was(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("disk").write_bytes(bytes(1 << 20))
    Path("link").symlink_to("disk")
    assert main(arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("vmbus: cannot write ")
    assert Path("disk").read_bytes() == bytes(1 << 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]
