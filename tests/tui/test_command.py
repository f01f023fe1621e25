"""``vmbus tui`` in a terminal: it shows, it leaves at once, and what it cannot show is one line and status 1."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dissectors.testing import Script
from tui.feed import Feed
from vmbus.capture import blocks
from vmbus.errors import VmbusError
from vmbus.testing.waiting import until

VMBUS = [sys.executable, "-m", "vmbus"]


class Terminal:
    """A command in a pseudo-terminal of 100 by 30 characters."""

    def __init__(self, *arguments: str) -> None:
        self.output = ""
        self.pid, self._fd = pty.fork()
        if not self.pid:
            os.environ |= {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
            # What started these tests may ignore them, as nohup does, and then the command would too.
            for number in (signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            os.execvp(VMBUS[0], [*VMBUS, *arguments])

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Until the text was written."""
        deadline = time.monotonic() + seconds
        while text not in self.plain:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.plain[-400:]!r}"
            self._read(0.1)

    @property
    def plain(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.output)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._fd], [], [], seconds)[0]:
            return True
        try:
            piece = os.read(self._fd, 1 << 16)
        except OSError:
            return False
        self.output += piece.decode("utf-8", "replace")
        return bool(piece)

    def hang_up(self) -> None:
        """Close the terminal, as tmux or a lost connection does."""
        os.close(self._fd)

    def ended(self, seconds: float = 60) -> bool:
        """Whether the command ends in time; it is killed if not."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                return True
            time.sleep(0.05)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return False

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def status(self, seconds: float = 60) -> int:
        """The exit status, once the command has ended."""
        deadline = time.monotonic() + seconds
        while self._read(0.1):
            assert time.monotonic() < deadline, f"it goes on: {self.plain[-400:]!r}"
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_capture_is_shown_and_q_leaves(capture: Path) -> None:
    terminal = Terminal("tui", str(capture))
    terminal.wait_for("INITIATE_CONTACT")
    terminal.press("q")
    assert terminal.status() == 0


@pytest.mark.parametrize("is_full", [False, True], ids=["idle", "waiting for the terminal"])
def test_it_ends_when_its_terminal_is_closed(capture: Path, is_full: bool) -> None:
    terminal = Terminal("tui", str(capture))
    terminal.wait_for("INITIATE_CONTACT")
    if is_full:  # nobody reads what is drawn
        for _ in range(100):
            terminal.press("z")
            time.sleep(0.02)
    terminal.hang_up()
    assert terminal.ended()


def test_sigterm_ends_it_although_the_terminal_takes_nothing(capture: Path) -> None:
    terminal = Terminal("tui", str(capture))
    terminal.wait_for("INITIATE_CONTACT")
    for _ in range(100):
        terminal.press("z")
        time.sleep(0.02)
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.ended()
    terminal.hang_up()


def test_a_demo_ends_with_its_terminal_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    terminal = Terminal("demo")
    terminal.wait_for("READ")
    terminal.press("zzzzzzzzzz")
    time.sleep(1)  # it draws twenty times a second, and nobody reads that
    terminal.hang_up()
    assert terminal.ended()
    place = str(tmp_path).encode()
    assert until(lambda: not any(place in environment(entry) for entry in Path("/proc").glob("[0-9]*")))
    assert not list(tmp_path.iterdir())


def environment(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b"hello, world" * 20, "is not a pcapng capture"),
        (b"\xd4\xc3\xb2\xa1" * 20, "pcap file"),
    ],
    ids=["empty", "text", "pcap"],
)
def test_what_is_no_capture_is_one_line_and_status_1(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    terminal = Terminal("tui", str(path))
    assert terminal.status() == 1
    assert says in terminal.output
    assert len(terminal.plain.strip().splitlines()) == 1


@pytest.mark.parametrize("source", ["/does/not/exist", "unix:/does/not/exist", "/tmp"])
def test_what_cannot_be_reached_is_one_line_and_status_1(source: str) -> None:
    terminal = Terminal("tui", source)
    assert terminal.status() == 1
    assert re.match(r"vmbus: cannot (open|read) ", terminal.plain.strip())
    assert len(terminal.plain.strip().splitlines()) == 1


def test_without_a_terminal_it_says_what_to_use_instead(capture: Path) -> None:
    done = subprocess.run([*VMBUS, "tui", str(capture)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == "vmbus: this is not a terminal; 'vmbus read' prints the same records as text\n"


def test_a_capture_comes_in_pieces_and_its_first_records_at_once(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = script.write(tmp_path / "large.pcapng")
    with path.open("ab") as file:
        time_ns, data = script.records[-1]
        block = blocks.enhanced_packet(0, time_ns, data, direction=0)
        for _ in range(20):
            file.write(block * 10_000)
    feed = Feed(str(path))
    take_in, seen = feed.archive.update, []

    def take_in_and_look() -> int:
        count = take_in()
        seen.append(len(feed.archive))
        return count

    monkeypatch.setattr(feed.archive, "update", take_in_and_look)
    feed.start()
    feed.wait(60)
    assert feed.ended == "all read"
    assert 0 < seen[0] < 10_000
    assert len(feed.archive) == seen[-1] == len(script.records) + 200_000
    assert len(set(seen)) > 20
    feed.stop()


def test_a_feed_stops_in_the_middle_of_a_large_file(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = script.write(tmp_path / "large.pcapng")
    with path.open("ab") as file:
        time_ns, data = script.records[-1]
        for _ in range(20):
            file.write(blocks.enhanced_packet(0, time_ns, data, direction=0) * 5_000)
    feed = Feed(str(path))
    take_in, is_under_way, is_told = feed.archive.update, threading.Event(), threading.Event()

    def take_in_and_wait() -> int:
        count = take_in()
        is_under_way.set()
        is_told.wait(60)
        return count

    monkeypatch.setattr(feed.archive, "update", take_in_and_wait)
    feed.start()
    assert is_under_way.wait(60)
    feed.stop(0)
    is_told.set()
    feed.stop(60)
    assert feed.ended
    assert 0 < len(feed.archive) < 10_000


def test_a_feed_of_nothing_says_so() -> None:
    with pytest.raises(VmbusError, match="cannot open"):
        Feed("/does/not/exist")


def test_it_draws_for_a_browser_without_a_terminal(tmp_path: Path) -> None:
    file = Script().write(tmp_path / "c.pcapng")
    environment = {
        **os.environ,
        "TEXTUAL_DRIVER": "textual.drivers.web_driver:WebDriver",
        "COLUMNS": "100",
        "ROWS": "30",
    }
    with subprocess.Popen(
        [*VMBUS, "tui", str(file)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as served:
        assert served.stdout is not None
        assert served.stdout.readline() == b"__GANGLION__\n"
        assert served.stdout.read(1) == b"D"  # what is drawn, in pieces with a length each
        served.terminate()
