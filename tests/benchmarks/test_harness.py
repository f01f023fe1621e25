"""The benchmarks' command and arithmetic; what they measure is not the tests' business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # the benchmarks are not installed

from benchmarks.harness import Row, compare, names, run

ROOT = Path(__file__).parents[2]


def test_a_higher_ratio_is_better_whatever_the_unit():
    faster = compare("rate", "packets/s", iter([8.0, 6.0, 4.0]).__next__, iter([3.0, 1.0, 2.0]).__next__, repetitions=3)
    slower = compare("time", "s", lambda: 6.0, lambda: 2.0, higher_is_better=False)
    assert faster == Row("rate", "packets/s", 6.0, 2.0, 3.0)
    assert slower.ratio == pytest.approx(1 / 3)
    assert compare("alone", "s", lambda: 1.0, None).ratio is None


def test_ours_and_the_peers_are_measured_in_turn():
    order: list[str] = []
    compare("x", "s", lambda: order.append("ours") or 1.0, lambda: order.append("peer") or 1.0, repetitions=2)
    assert order == ["ours", "peer", "ours", "peer"]


def test_rows_are_one_json_object_a_line(monkeypatch, capsys):
    module = type(
        "fake", (), {"rows": staticmethod(lambda: iter([Row("a", "s", 1.0, 2.0, 2.0), Row("b", "s", 1.0, None, None)]))}
    )
    monkeypatch.setattr("benchmarks.harness.import_module", lambda name: module)
    run("fake", as_json=True)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"name": "a", "unit": "s", "ours": 1.0, "peer": 2.0, "ratio": 2.0}
    assert second["ratio"] is None
    run("fake", as_json=False)
    assert "ratio" in capsys.readouterr().out


def test_the_command_knows_its_benchmarks_and_says_so_when_it_does_not():
    assert "ring" in names()
    command = [sys.executable, "-m", "benchmarks", "nothing"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("no benchmark 'nothing'; there are ") and result.stderr.count("\n") == 1
