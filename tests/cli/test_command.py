"""The ``vmbus`` command: what goes wrong is one line on stderr, with the exit status that scripts rely on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vmbus.cli import main


@pytest.mark.parametrize(
    "arguments",
    [
        ["bogus"],
        ["--bogus"],
        ["host"],
        ["host", "bogus:x"],
        ["host", "unix:x", "--nic", "bogus"],
        ["host", "unix:x", "--nic", "tap:"],
        ["host", "unix:x", "--nic", "embedded:net=bogus"],
        ["host", "unix:x", "--scsi", "bogus:x"],
        ["host", "unix:x", "--scsi", "memory:1M,lun=x"],
        ["host", "unix:x", "--device", "bogus"],
        ["host", "unix:x", "--snap", "-1"],
        ["host", "unix:" + "x" * 200],
        ["host", "unix:x", "--flight", "999999999"],
        ["read", "--bogus", "x"],
        ["read", "x", "-Y", "bogus =="],
        ["demo", "--guest", "bogus"],
        ["guest", "run"],
        ["guest", "run", "unix:x", "--memory", "banana"],
        ["guest", "run", "unix:x", "--memory", "16M"],
        ["guest", "run", "unix:x", "--python", "-c", "report"],
        ["guest", "run", "unix:x", "--processors", "2"],
        ["guest", "run", "--root", "/etc/passwd", "-c", "report"],
        ["guest", "run", "unix:x", "--append", "root=/dev/sda", "-c", "report"],
        ["guest", "run", "unix:x", "--initramfs", "/tmp", "-c", "report"],
        ["host", "unix:x", "-w", "x.pcapng", "--keep", "2"],
        ["host", "unix:x", "--flight", "1", "--flight-file", "/nonexistent/x"],
        ["wireshark", "compare", "-"],
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert lines[0].startswith("vmbus: ") or lines[-1].startswith("vmbus: ")
    assert "Traceback" not in "\n".join(lines)


@pytest.mark.parametrize(
    "arguments",
    [
        ["read", "/nonexistent"],
        ["read", "/etc/passwd"],
        ["stats", "/nonexistent"],
        ["check", "/etc/passwd"],
        ["host", "unix:/nonexistent/directory/socket", "--device", "echo"],
        ["host", "unix:x", "--scsi", "/nonexistent"],
        ["host", "unix:x", "--device", "echo", "-w", "/nonexistent/file"],
        ["guest", "run", "--python", "unix:/nonexistent"],
        ["tui", "/nonexistent"],
        ["host", "unix:/tmp", "--device", "echo"],
        ["host", "unix:/etc/passwd", "--device", "echo"],
        ["host", "unix:x", "--device", "echo", "--stream", "unix:/tmp"],
        ["import", "trace", "/dev/null", "-w", "x"],
        ["import", "trace", "/etc/passwd", "-w", "x"],
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_1(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith("vmbus: ") and "Errno" not in line


@pytest.mark.parametrize("command", [[], ["import"], ["guest"]])
def test_a_command_that_says_nothing_gets_the_help_as_it_is(
    command: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    shown = capfd.readouterr().err
    assert main([*command, "--help"]) == 0
    assert shown.strip() == capfd.readouterr().out.strip()
    assert len(shown.splitlines()) > 5


@pytest.mark.parametrize("command", ["build", "run unix:x --command true"])
def test_a_cache_that_cannot_be_made_is_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/x")
    assert main(["guest", *command.split()]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("vmbus: cannot make the cache /proc/x/vmbus/")


@pytest.mark.parametrize("arguments", ["read {}", "stats {}", "capture {} -w -", "--help", "--version"])
def test_a_full_disk_behind_the_output_is_one_line(arguments: str) -> None:
    capture = next((Path(__file__).parents[2] / "captures").glob("*/capture.pcapng"))
    command = [sys.executable, "-m", "vmbus", *arguments.format(capture).split()]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("No space left on device")


def test_a_socket_that_is_no_stream_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    listeners = []
    for name in ("silent", "guests", "guests.ctl"):
        listeners.append(socket.socket(socket.AF_UNIX))
        listeners[-1].bind(str(tmp_path / name))
        listeners[-1].listen()
    for name, says in (("guests", "guests connect to this socket"), ("silent", "nothing comes from this socket")):
        for arguments in (["read"], ["capture", "-w", str(tmp_path / "w")]):
            assert main([*arguments, f"unix:{tmp_path / name}"]) == 1
            assert says in capfd.readouterr().err
    for listener in listeners:
        listener.close()


def test_the_commands_are_listed_without_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capfd.readouterr().out
    for name in ("demo", "host", "guest", "read", "tui", "check", "stats", "export", "ctl", "wireshark"):
        assert f"\n  {name} " in listed


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    capture = next((Path(__file__).parents[2] / "captures").glob("*/capture.pcapng"))
    shell = f"{sys.executable} -m vmbus read {capture} | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", shell], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_host_that_is_told_to_stop_leaves_its_capture_whole_and_its_socket_gone(
    tmp_path: Path, number: signal.Signals
) -> None:
    path = tmp_path / "host"
    command = [
        sys.executable,
        "-m",
        "vmbus",
        "host",
        f"unix:{path}",
        "--device",
        "echo",
        "-w",
        str(tmp_path / "w.pcapng"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == f"listening on unix:{path}\n"
    assert path.stat().st_mode & 0o777 == 0o600
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert not path.exists()
    assert main(["read", str(tmp_path / "w.pcapng")]) == 0


def test_a_second_host_at_the_same_address_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from vmbus.transport import listen, parse_address

    address = f"unix:{tmp_path / 'host'}"
    with listen(parse_address(address)):
        assert main(["host", address, "--device", "echo"]) == 1
    assert "another process is listening" in capfd.readouterr().err
