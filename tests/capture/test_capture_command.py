"""``vmbus capture`` copies a live stream, whole blocks only, until it is told to stop."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from vmbus.capture.reader import CannotOpen, read_records
from vmbus.capture.recorder import Recorder, RecordingPlan
from vmbus.cli.capture import CannotWrite, command
from vmbus.testing.waiting import until

app = Typer()
app.command()(command)


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(word) for word in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def start(*arguments: str | Path, **options: int) -> subprocess.Popen[bytes]:
    program = "import sys, typer; from vmbus.cli.capture import command; typer.run(command)"
    return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, **options)


def wait_for(path: Path) -> None:
    assert until(lambda: path.exists() and path.stat().st_size > 100)


def test_a_file_is_copied_block_by_block(sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy.pcapng"
    assert run(sample, "-w", out) == f"29 records in {out}\n"
    assert out.read_bytes() == sample.read_bytes()


def test_it_stops_after_the_number_of_records_that_is_wanted(sample: Path, tmp_path: Path) -> None:
    run(sample, "-w", tmp_path / "few.pcapng", "-c", "5")
    assert len(list(read_records(tmp_path / "few.pcapng"))) == 5


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGALRM])
def test_a_stream_is_recorded_until_it_is_told_to_stop(
    tmp_path: Path, conversation: dict[str, Callable[..., None]], how: signal.Signals
) -> None:
    stream, out = tmp_path / "stream", tmp_path / "out.pcapng"
    with Recorder(RecordingPlan(stream=str(stream))) as recorder:
        program = start(f"unix:{stream}", "-w", out, "--seconds", "1000")
        wait_for(out)
        conversation["talk"](recorder.tap)
        assert until(lambda: sum(1 for _ in read_records(out, on_damage=lambda _: None)) == 29)
        program.send_signal(how)
        output, _ = program.communicate(timeout=60)
    assert (output.decode(), program.returncode) == (f"29 records in {out}\n", 0)
    damage: list[object] = []
    assert len(list(read_records(out, on_damage=damage.append))) == 29
    assert damage == []


def test_a_stream_is_recorded_until_its_time_is_up(tmp_path: Path) -> None:
    stream, out = tmp_path / "stream", tmp_path / "out.pcapng"
    with Recorder(RecordingPlan(stream=str(stream))):
        program = start(f"unix:{stream}", "-w", out, "--seconds", "1")
        output, _ = program.communicate(timeout=60)
    assert (output.decode(), program.returncode) == (f"0 records in {out}\n", 0)


def test_a_pipe_gets_the_capture_and_may_close(sample: Path) -> None:
    program = start(sample, "-w", "-")
    assert program.stdout is not None
    assert program.stdout.read(4) == b"\n\r\r\n"
    program.stdout.close()
    program.wait(60)


def test_what_cannot_be_opened_or_written_is_one_clear_line(sample: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotOpen, match=r"cannot open unix:.*: No such file"):
        run(f"unix:{tmp_path / 'none'}", "-w", tmp_path / "x")
    with pytest.raises(CannotWrite, match=r"cannot write .*: No such file"):
        run(sample, "-w", tmp_path / "none" / "x")
    with pytest.raises(CannotWrite, match="No space left"):
        run(sample, "-w", "/dev/full")
