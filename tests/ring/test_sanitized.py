"""The C extension under AddressSanitizer and UndefinedBehaviorSanitizer: the ring's other tests, once more."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ["test_hostile.py", "test_model.py", "test_reading.py", "test_writing.py", "test_wrapping.py"]

RUN = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("vmbus._native", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["vmbus._native"] = module
spec.loader.exec_module(module)
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-k", "native or alike or False", *sys.argv[2:]]))
"""


@pytest.fixture(params=[[], ["-DLAYOUT_UNKNOWN"]], ids=["items are found", "items are asked for"])
def sanitized(request, tmp_path):
    compiler = shutil.which("gcc")
    include = Path(sysconfig.get_paths()["include"])
    if compiler is None or not (include / "Python.h").exists():
        pytest.skip("no gcc, or no Python headers")
    library = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    if not Path(library.stdout.strip()).is_absolute():
        pytest.skip("no AddressSanitizer")
    target = tmp_path / "_native.so"
    flags = ["-O1", "-g", "-fPIC", "-shared", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    sources = map(str, (ROOT / "vmbus" / "native").glob("*.c"))
    subprocess.run([compiler, *flags, *request.param, "-I", str(include), "-o", str(target), *sources], check=True)
    return target, library.stdout.strip()


def test_hostile_rings_and_random_operations_touch_no_memory_that_is_not_theirs(sanitized):
    target, library = sanitized
    environment = {
        **os.environ,
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0",
        "VMBUS_PURE_PYTHON": "0",
        "PYTHONMALLOC": "malloc",  # so that every object has red zones around it
    }
    tests = [str(Path(__file__).with_name(name)) for name in TESTS]
    result = subprocess.run(
        [sys.executable, "-c", RUN, str(target), *tests],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert " passed" in result.stdout
