"""The launcher's command line and the ``guest`` command; a user's own initramfs, and a shell on the console."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from vmbus.cli import main
from vmbus.linux.errors import GuestNotStarted
from vmbus.linux.launch import ExitStatus, GuestOptions, GuestStillRunning
from vmbus.testing.fake_host import FakeHost
from vmbus.testing.linux import StartGuest, kernel_or_skip

pytestmark = pytest.mark.linux


def test_the_command_line_names_the_socket_absolutely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = GuestOptions("unix:s", Path("/k"), memory="64M", append=["quiet"], script=["report"], reconnect=9)
    command = options.command_line(tmp_path)
    assert command[0] == "/k" and command[-1] == "quiet"
    assert {f"vmbus={tmp_path}/s", "mem=64M", "vmbus_reconnect=9", f"uml_dir={tmp_path}"} <= set(command)
    assert b"report\n" in (tmp_path / "initramfs.cpio").read_bytes()


def test_a_root_device_takes_the_place_of_the_initramfs(tmp_path: Path) -> None:
    command = GuestOptions("unix:/s", Path("/k"), root="/dev/sda").command_line(tmp_path)
    assert {"root=/dev/sda", "rw", "rootwait"} <= set(command) and not list(tmp_path.iterdir())


def test_white_space_in_the_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GuestNotStarted, match="white space"):
        GuestOptions("unix:/a b", Path("/k")).command_line(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [["run"], ["run", "unix:/s", "--memory"], ["build", "--jobs", "0"], ["run", "unix:/s", "--initramfs", "/missing"]],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["guest", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_source_that_is_not_there_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guest", "build", "--kernel", "/no/such/tree"]) == 1
    assert capsys.readouterr().err == (
        "vmbus: no kernel source at /no/such/tree: give a version (6.12, 6.1), tree or tarball\n"
    )


def test_guest_run_boots_and_returns_the_guests_status(
    host: FakeHost, linux_kernel: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    version = "6.12" if "6.12" in linux_kernel.name else "6.1"
    console = tmp_path / "console"
    arguments = [
        "guest",
        "run",
        f"unix:{host.path}",
        "--kernel",
        version,
        "--console",
        str(console),
        "--timeout",
        "240",
    ]
    assert main([*arguments, "-c", "report", "-c", "exit 7"]) == 7
    assert "TEST report ok devices=0" in console.read_text()
    assert capfd.readouterr().out == ""


def test_a_guest_that_takes_too_long_is_ended(
    host: FakeHost, linux_kernel: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    version = "6.12" if "6.12" in linux_kernel.name else "6.1"
    arguments = ["guest", "run", str(host.path), "--kernel", version, "--console", str(tmp_path / "c")]
    assert main([*arguments, "--timeout", "0.5", "-c", "sleep 600"]) == 124
    assert "still running" in capfd.readouterr().err and host.gone.wait(60)


def test_a_users_own_initramfs_boots(host: FakeHost, linux_guest: StartGuest, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "proc").mkdir()
    shutil.copy(shutil.which("busybox") or "", root / "bin/busybox")
    init = root / "init"
    init.write_text(
        "#!/bin/busybox sh\n/bin/busybox mount -t proc proc /proc\n/bin/busybox echo our own init\n"
        "/bin/busybox echo 5 > /proc/exitcode\n/bin/busybox poweroff -f\n"
    )
    init.chmod(0o755)
    guest = linux_guest(host.path, initramfs=root)
    assert guest.wait(240) == 5
    assert "our own init" in guest.lines


def test_without_a_script_the_console_has_a_shell(host: FakeHost, linux_guest: StartGuest) -> None:
    guest = linux_guest(host.path)
    guest.wait_for_line("Run /init", 120)
    with pytest.raises(GuestStillRunning):
        guest.wait_for_line("never printed", 0.2)
    guest.write_line("echo 6 x 7 = $((6 * 7))")
    guest.wait_for_line("6 x 7 = 42", 120)
    guest.write_line("exit")
    assert guest.wait(240) == ExitStatus.DONE


def test_a_kernel_that_cannot_be_built_skips_a_test_but_fails_it_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match="no Linux guest here: no kernel source"):
        kernel_or_skip("/no/such/tree")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="CI needs the Linux guest"):
        kernel_or_skip("/no/such/tree")


def test_a_disk_image_boots_on_a_host_of_its_own(
    linux_kernel: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    for directory in "bin", "sbin", "proc", "dev":
        (root / directory).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", root / "bin/busybox")
    init = root / "sbin/init"
    init.write_text(
        "#!/bin/busybox sh\n/bin/busybox mount -t proc proc /proc\n/bin/busybox mount\n"
        "/bin/busybox echo 5 > /proc/exitcode\n/bin/busybox poweroff -f\n"
    )
    init.chmod(0o755)
    image = tmp_path / "root.img"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(image), "32M"], check=True, capture_output=True)
    version = "6.12" if "6.12" in linux_kernel.name else "6.1"
    arguments = ["guest", "run", "--root", str(image), "--kernel", version, "--timeout", "240", "--append", "quiet"]
    assert main([*arguments, "--console", str(tmp_path / "console")]) == 5
    assert "/dev/root on / type ext4 (rw" in (tmp_path / "console").read_text()
    assert capfd.readouterr().out == "", "the host for one image says nothing"
