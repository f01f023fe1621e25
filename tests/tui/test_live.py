"""A host's stream, live: what a guest does shows while it does it; and ``vmbus demo`` without a terminal."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

import tui.demo
from tui.app import VmbusApp
from tui.channel_table import ChannelTable
from tui.demo import DemoFailed, Stage, staged, watch
from tui.packet_list import PacketList
from vmbus.capture.reader import read_records
from vmbus.testing.waiting import until as until_true

VMBUS = [sys.executable, "-m", "vmbus"]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A host with a disk, whose stream is at ``tmp_path / "stream"``."""
    command = [*VMBUS, "host", f"unix:{tmp_path / 'bus'}", "--scsi", "memory:1M", "--stream", f"unix:{tmp_path / 's'}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"listening")
    yield process
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


async def test_a_stream_shows_what_a_guest_does_and_its_end(opened, until, host, tmp_path: Path) -> None:
    async with opened(f"unix:{tmp_path / 's'}", records=0) as (app, pilot):
        guest = [*VMBUS, "guest", "run", "--python", f"unix:{tmp_path / 'bus'}", "--timeout", "100"]
        with subprocess.Popen(guest, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            await until(pilot, lambda: len(app.rows) > 100 and any("READ" in summary for summary in summaries(app)))
            packets = app.query_one(PacketList)
            assert packets.follow
            assert "live" in str(app.query_one("#status").render())
            process.terminate()
        host.send_signal(signal.SIGTERM)
        await until(pilot, lambda: "end of the stream" in str(app.query_one("#status").render()))


def summaries(app: VmbusApp) -> Iterator[str]:
    return (app.rows.item(row).summary for row in range(len(app.rows)))


async def test_what_was_open_when_a_stream_ended_is_not_open_any_more(opened, until, capture: Path) -> None:
    async with opened(capture) as (app, pilot):
        await until(pilot, lambda: "'open'" in cells(app))
        app._feed.is_over = True
        await until(pilot, lambda: "'was open'" in cells(app) and "'open'" not in cells(app))


def cells(app: VmbusApp) -> str:
    table = app.query_one(ChannelTable)
    return str([str(cell) for key in table.rows for cell in table.get_row(key)])


def demo(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*VMBUS, "demo", *options], capture_output=True, text=True, timeout=180)


def test_a_demo_without_a_terminal_prints_a_table(tmp_path: Path) -> None:
    capture = tmp_path / "demo.pcapng"
    done = demo("--seconds", "1", "-w", str(capture))
    assert done.returncode == 0, done.stderr
    rows = {line.split()[2] for line in done.stdout.splitlines() if line[:1].isdigit() and "  " in line}
    assert {"vstor", "nvsp"} <= rows
    assert sum(1 for _ in read_records(str(capture))) > 100


def test_a_demos_summary_as_json_has_latencies() -> None:
    done = demo("--json", "--seconds", "1")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    disk = next(row for row in summary["channels"] if row["protocol"] == "vstor")
    assert disk["completed"] > 10
    assert 0 < disk["median_us"] <= disk["p99_us"]


def test_a_demo_whose_guest_fails_ends_with_what_that_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(Stage):
        def _run(self, name: str, arguments: list[str]) -> ForkProcess:
            return super()._run(name, [*arguments, *(["--root", "/dev/sda"] if name == "guest" else [])])

    monkeypatch.setattr(tui.demo, "Stage", Refused)
    monkeypatch.setattr(tui.demo, "_BOOT_SECONDS", 600)  # which nobody waits for
    with staged("python", "", 1) as stage, pytest.raises(DemoFailed, match=r"the guest ended with status 2: .*--root"):
        watch(stage, 1)


@pytest.mark.parametrize("options", [["--guest", "dos"], ["--seconds", "0"], ["--no-such-option"]])
def test_wrong_options_are_one_line_and_status_2(options: list[str]) -> None:
    done = demo(*options)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*VMBUS, "demo", "--headless", "--seconds", "30"],
        stdout=subprocess.PIPE, text=True, env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
        # What a shell starts in the background ignores interrupts, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert until_true(lambda: list(tmp_path.glob("vmbus-demo-*/stream")))
    process.send_signal(signal.SIGINT)
    # A shell shows 130 for both; Python ends itself by the signal if that came while it ran generated code.
    assert process.wait(60) in (130, -signal.SIGINT)
    assert not list(tmp_path.iterdir())
    assert until_true(lambda: not leftovers(str(tmp_path)))  # the capture's writer ends after its host


def leftovers(name: str) -> list[str]:
    """Processes that have ``name`` on their command line or in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if name.encode() in text and name:
            found.append(entry.name)
    return found
