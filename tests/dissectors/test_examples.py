"""What docs/ show is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import duckdb
import pytest

from dissectors.engine import Session
from dissectors.engine.source import decode_capture
from dissectors.exports.tables import export_parquet
from dissectors.filters import Filter
from dissectors.rules import RULES
from vmbus.capture.reader import read_records

StartHost = Callable[..., AbstractContextManager[str]]
ROOT = Path(__file__).parents[2]


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / name).read_text(), re.DOTALL)


def test_the_scapy_examples_run_one_after_the_other(start_host: StartHost, tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    with start_host(tmp_path, "--scsi", str(tmp_path / "disk.img")) as address:
        program = "\n".join(blocks("scapy.md", "python")).replace("unix:/tmp/host.sock", address)
        assert address in program
        program = program.replace("timeout=5", "timeout=60")  # none of them runs out
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=180, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "10.7.0.1" in lines and any(re.fullmatch(r"\d+ of \d+", line) for line in lines)
    assert lines[-4:] == ["SUCCESS", "2", "0x0602", "COMPLETE_IO"]


def test_the_engine_example_decodes_a_capture(capsys: pytest.CaptureFixture[str]) -> None:
    program = blocks("dissectors.md", "python")[0]
    capture = ROOT / "captures" / "python-guest" / "capture.pcapng"
    exec(compile(program.replace("traffic.pcapng", str(capture)), "example", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == len(list(read_records(capture)))


def test_the_example_of_conversations_prints_commands(capsys: pytest.CaptureFixture[str]) -> None:
    program = blocks("dissectors.md", "python")[1]
    capture = ROOT / "captures" / "disk-6.12" / "capture.pcapng"
    names = {"session": Session(), "read_records": read_records}
    exec(compile(program.replace("traffic.pcapng", str(capture)), "example", "exec"), names)
    assert "WRITE_10 lba" in capsys.readouterr().out


def test_the_query_of_a_parquet_table_finds_commands(tmp_path: Path) -> None:
    export_parquet(
        decode_capture(str(ROOT / "captures" / "disk-6.12" / "capture.pcapng")), tmp_path / "traffic.parquet"
    )
    (query,) = blocks("dissectors.md", "sql")
    found = duckdb.connect().execute(query.replace("traffic.parquet", str(tmp_path / "traffic.parquet"))).fetchall()
    assert {"READ_10", "WRITE_10"} < {command for command, _, _ in found}


def test_every_filter_that_is_shown_compiles() -> None:
    text = (ROOT / "docs" / "filters.md").read_text() + (ROOT / "docs" / "dissectors.md").read_text()
    shown = re.findall(r"Filter\('(.*?)'\)", text) + re.findall(r"-Y '([^']*)'", text)
    assert len(shown) >= 3
    for expression in shown:
        if "READ_1'" not in f"{expression}'":
            Filter(expression.removeprefix("vmbus."))


def test_every_rule_is_listed_with_its_words() -> None:
    text = (ROOT / "docs" / "expert-rules.md").read_text()
    for rule in RULES.values():
        assert f"| {rule.id} | {rule.severity.name.lower()} | {rule.title} | {rule.look_at} |" in text
