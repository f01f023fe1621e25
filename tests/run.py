"""All checks in order, with a line before each: what ``make test`` and ``make soak`` run.

``python -m tests.run [--soak] [--lint-only] [pytest arguments]``.  The suite runs twice where it matters: with the C
extension and, for the parts that have a pure-Python path, without it (``VMBUS_PURE_PYTHON=1``).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PURE = ["tests/ring", "tests/memory", "tests/synic", "tests/channel", "tests/host"]
"""What runs again without the C extension."""
COMPLETE = "vmbus/control/*,vmbus/ring/*"
"""What is covered to the last branch."""


def step(title: str, *command: str, **environment: str) -> bool:
    """Run one check; True if it passed."""
    print(f"\n=== {title}", flush=True)
    began = time.monotonic()
    environment = {**os.environ, **environment}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes would each compile the package again
    status = subprocess.run(command, cwd=ROOT, env=environment).returncode
    print(f"=== {title}: {'ok' if not status else f'FAILED ({status})'}, {time.monotonic() - began:.0f} s", flush=True)
    return not status


def main(arguments: list[str]) -> int:
    soak = "--soak" in arguments
    lint_only = "--lint-only" in arguments
    rest = [argument for argument in arguments if argument not in ("--soak", "--lint-only")]
    python = sys.executable
    passed = []
    if not soak:
        passed += [
            step("ruff", python, "-m", "ruff", "check", "."),
            step("ruff format", python, "-m", "ruff", "format", "--check", "."),
            step("mypy --strict", python, "-m", "mypy"),
            step("import contracts", str(Path(python).parent / "lint-imports"), "--no-cache"),
        ]
    if lint_only:
        return 0 if all(passed) else 1
    if soak:
        print("about 35 minutes on two cores; docs/soaks.md says what is done and how long each took", flush=True)
        # Only what Python prints is captured: progress goes to the process's own standard error.
        options = ["-m", "soak", "-v", "--capture=sys", "--durations=0"]
        return 0 if step("soak", python, "-m", "pytest", *options, *rest, VMBUS_SOAK="1") else 1
    if not rest and os.environ.get("CI"):
        # The guest's tests would build them too, but without a word for minutes.
        for kernel in ("6.12", "6.1"):
            passed.append(
                step(f"Linux {kernel} for the guest", python, "-m", "vmbus", "guest", "build", "--kernel", kernel)
            )
    pure = [path for path in PURE if (ROOT / path).exists()]
    selected = ["-m", "not linux", "--ignore=tests/ring/test_sanitized.py"]  # which has the extension all the same
    passed.append(step("pytest, pure Python", python, "-m", "pytest", "-q", *pure, *selected, VMBUS_PURE_PYTHON="1"))
    passed += [
        # Not pytest-cov: our own pytest plugins import vmbus before it starts to measure.
        step("pytest", python, "-m", "coverage", "run", "-m", "pytest", "-ra", "--durations=15", *rest),
        step("branch coverage", python, "-m", "coverage", "report", "--sort=cover"),
    ]
    if not rest:
        complete = [f"--include={COMPLETE}", "--fail-under=100"]
        passed.append(step("branch coverage of control and ring", python, "-m", "coverage", "report", *complete))
    print(f"\n{'all checks passed' if all(passed) else 'some checks FAILED'}", flush=True)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
