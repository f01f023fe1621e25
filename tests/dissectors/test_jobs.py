"""Reading with several processes, from pipes, and of captures larger than memory, as the command does it."""

from __future__ import annotations

import os
import pty
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tui.feed import Feed
from vmbus.testing.waiting import until

VMBUS = (sys.executable, "-m", "vmbus")
CAPTURE = Path(__file__).parents[2] / "captures" / "disk-6.12" / "capture.pcapng"
SOAK = bool(int(os.environ.get("VMBUS_SOAK") or "0"))
MEMORY = 256 << 20
"""Bytes of address space: what Python and its libraries take, and little more."""
MOST_SECONDS = 6
"""Of processors' time, for the beginning of what takes several times as long."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 MB, ninety thousand records."""
    path = tmp_path_factory.mktemp("large") / "large.pcapng"
    path.write_bytes(CAPTURE.read_bytes() * 160)
    return path


def run(*arguments: str, memory: int = 0) -> subprocess.CompletedProcess[bytes]:
    limit = (lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory))) if memory else None
    # Numpy's threads, one for each processor, take address space too.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run([*VMBUS, *arguments], capture_output=True, timeout=250, preexec_fn=limit, env=environment)


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*VMBUS, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # In a shell's background these tests ignore SIGINT, and what they start would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def children(process: subprocess.Popen[bytes]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def wait_for_children(process: subprocess.Popen[bytes]) -> list[int]:
    found: list[int] = []
    assert until(lambda: process.poll() is not None or found.extend(children(process)) or found)
    return found


@pytest.mark.parametrize(
    "options",
    [
        ("read",),
        ("read", "--json", "-Y", "vstor.cdb.opcode == READ_10"),
        ("read", "-V", "-x", "-Y", "latency > 300us"),
        ("stats", "-Y", "latency > 300us"),
        ("check",),
        ("export", "json"),
    ],
    ids=" ".join,
)
def test_several_processes_print_what_one_prints(large: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(CAPTURE.read_bytes() * 6)
    one, three = (run(*options, str(path), "--jobs", jobs) for jobs in ("1", "3"))
    assert one.stdout and (one.stdout, one.stderr, one.returncode) == (three.stdout, three.stderr, three.returncode)


@pytest.mark.parametrize("command", ["read", "stats", "check"])
def test_a_fifo_and_standard_input_are_read_like_the_file(tmp_path: Path, command: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(CAPTURE.read_bytes(),), daemon=True)
    writer.start()
    piped = run(command, str(fifo))
    writer.join(60)
    with CAPTURE.open("rb") as file:
        from_stdin = subprocess.run([*VMBUS, command, "-"], stdin=file, capture_output=True, timeout=250)
    assert piped.stdout == from_stdin.stdout == run(command, str(CAPTURE)).stdout


def test_a_record_from_a_fifo_is_shown_while_the_writer_goes_on(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with started("read", str(fifo)) as process, fifo.open("wb", buffering=0) as writer:
        writer.write(CAPTURE.read_bytes()[:2000])
        assert process.stdout is not None and b"connected" in process.stdout.readline()


def test_the_ui_takes_a_fifo_and_no_more_of_it_than_it_may_keep(tmp_path: Path) -> None:
    data = CAPTURE.read_bytes() * 40
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for limit, ended in ((0, "end of the stream"), (2 << 20, "stopped: ")):
        writer = threading.Thread(target=_write_until_nobody_reads, args=(fifo, data), daemon=True)
        writer.start()
        feed = Feed(str(fifo), spool_limit=limit)
        feed.start()
        feed.wait(60)
        writer.join(60)
        assert feed.ended.startswith(ended)
        assert feed.store.size <= limit if limit else feed.store.size == len(data)


def _write_until_nobody_reads(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except BrokenPipeError:
        pass


def is_group(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_ctrl_c_ends_all_processes_without_a_word(large: Path) -> None:
    with started("read", "-V", "--jobs", "2", str(large)) as process:
        wait_for_children(process)
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(60) == 130
        assert until(lambda: not is_group(process.pid))


def test_a_process_that_dies_is_one_clear_line(large: Path) -> None:
    with started("read", "-V", "--jobs", "2", str(large)) as process:
        os.kill(wait_for_children(process)[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1
        assert errors.startswith(b"vmbus: the process that decoded records ") and errors.count(b"\n") == 1


def test_a_reader_that_has_enough_ends_all(large: Path) -> None:
    with started("read", "-V", "--jobs", "2", str(large)) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        assert used.ru_utime + used.ru_stime < MOST_SECONDS


@pytest.mark.parametrize(("options", "is_shown"), [((), True), (("--no-progress",), False)])
def test_a_bar_on_a_terminal_has_rate_and_time_left(large: Path, options: tuple[str, ...], is_shown: bool) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*VMBUS, "read", "-V", *options, str(large)], stdout=subprocess.DEVNULL, stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    ) as process:  # fmt: skip
        shown = b""
        deadline = time.monotonic() + (60 if is_shown else 3)
        while b"records/s" not in shown and time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                shown += os.read(ours, 4096)
        process.kill()
    os.close(ours)
    os.close(theirs)
    assert (b"records/s" in shown and b"%" in shown) == is_shown


def test_a_gigabyte_is_read_in_a_quarter_of_that(tmp_path: Path) -> None:
    path = tmp_path / "sparse.pcapng"
    data, hole = CAPTURE.read_bytes(), 8 << 20
    with path.open("wb") as file:
        for _ in range(128):  # records, and a block of another program's that is nearly all hole
            file.write(data + struct.pack("<II", 0x8000_1234, hole))
            file.seek(hole - 12, os.SEEK_CUR)
            file.write(struct.pack("<I", hole))
    assert path.stat().st_size > 1 << 30
    _read_in_little_memory(path, 128 * 591)
    for options in ((), ("--jobs", "2", "-Y", "scsi_status == CHECK_CONDITION")):
        done = run("stats", str(path), *options, memory=MEMORY)
        assert done.returncode == 0 and done.stderr == b""
        assert b" records in " in done.stdout.splitlines()[-1]
    done = run("check", str(path), "--jobs", "2", memory=MEMORY)
    assert done.stdout.splitlines()[-1].startswith(f"{128 * 591} records, ".encode())


@pytest.mark.soak
@pytest.mark.skipif(not SOAK, reason="takes a minute and 1.3 GB of disk: make soak")
def test_millions_of_records_are_read_in_a_fifth_of_their_size(tmp_path: Path) -> None:
    path = tmp_path / "dense.pcapng"
    count = 17_000
    with path.open("wb") as file:
        for _ in range(count):
            file.write(CAPTURE.read_bytes())
    _read_in_little_memory(path, count * 591)


def _read_in_little_memory(path: Path, records: int) -> None:
    for jobs in ("1", "2"):
        done = run("read", str(path), "--jobs", jobs, "-Y", f"number == {records} || kind == register", memory=MEMORY)
        assert done.returncode == 0 and done.stderr == b""
        assert done.stdout.splitlines()[-1].split()[0] == str(records).encode()


def test_a_block_that_is_whole_in_no_window_is_read(tmp_path: Path, started_note: Callable[[int], bytes]) -> None:
    path = tmp_path / "long.pcapng"
    path.write_bytes(CAPTURE.read_bytes() + started_note(3 << 20) + started_note(10))
    lines = run("read", str(path)).stdout.splitlines()
    assert len(lines) == 593 and lines[-1].endswith(b"x" * 10)


@pytest.fixture
def started_note() -> Callable[[int], bytes]:
    """A note of a length."""
    from vmbus.capture import encode
    from vmbus.wire.capture import NoteKind

    return lambda length: encode.note(1_700_000_000_000_000_000, NoteKind.TEXT, "x" * length)
