"""The C builders of records under AddressSanitizer and UndefinedBehaviorSanitizer: the encoding tests, once more."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RUN = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("vmbus.capture._records", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["vmbus.capture._records"] = module
spec.loader.exec_module(module)
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", sys.argv[2]]))
"""


def test_building_records_touches_no_memory_that_is_not_its_own(tmp_path: Path) -> None:
    compiler, include = shutil.which("gcc"), Path(sysconfig.get_paths()["include"])
    if compiler is None or not (include / "Python.h").exists():
        pytest.skip("no gcc, or no Python headers")
    found = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    library, target = found.stdout.strip(), tmp_path / "_records.so"
    if not Path(library).is_absolute():
        pytest.skip("no AddressSanitizer")
    flags = ["-O1", "-g", "-fPIC", "-shared", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    source = ROOT / "vmbus" / "capture" / "_records.c"
    subprocess.run([compiler, *flags, "-I", str(include), "-o", str(target), str(source)], check=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0",
        "VMBUS_PURE_PYTHON": "0",
        "PYTHONMALLOC": "malloc",  # so that every object has red zones around it
    }
    result = subprocess.run(
        [sys.executable, "-c", RUN, str(target), str(Path(__file__).with_name("test_encoding.py"))],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert " passed" in result.stdout
