"""Pytest fixtures for tests that need a real Linux guest: ``linux_kernel`` and ``linux_guest``.

A pytest plugin that is installed with the package. A kernel that cannot be built here (no compiler, no source) skips
the test with the reason; where the environment says ``CI=true`` that is a failure. A test that uses one of the two runs
once with each kernel of ``VMBUS_TEST_KERNELS``, by default ``6.12 6.1``.  ``vmbus.testing.debian`` adds
``debian_image``, a root image for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from vmbus.linux.build import Variant, build_kernel
from vmbus.linux.errors import LinuxGuestError
from vmbus.linux.launch import GuestOptions, LinuxGuest
from vmbus.linux.source import DEFAULT_VERSION, PACKAGED_VERSIONS

pytest_plugins = ["vmbus.testing.debian"]

StartGuest = Callable[..., LinuxGuest]


def kernel_versions() -> list[str]:
    """The kernels to test with, each a version, tree or tarball."""
    return os.environ.get("VMBUS_TEST_KERNELS", " ".join(PACKAGED_VERSIONS)).split()


def kernel_or_skip(spec: str, variant: Variant = Variant.PLAIN) -> Path:
    """The kernel's binary, built if need be; skips the test (fails it in CI) when it cannot be built."""
    try:
        return build_kernel(spec, variant)
    except LinuxGuestError as error:
        skip_without("Linux guest", error)


def skip_without(what: str, error: LinuxGuestError) -> NoReturn:
    """Skip the test for the lack of ``what``, or fail it in CI, where nothing may lack."""
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(f"CI needs the {what}: {error}", pytrace=False)
    pytest.skip(f"no {what} here: {error}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that uses ``linux_kernel`` once for every kernel."""
    if "linux_kernel" in metafunc.fixturenames:
        metafunc.parametrize("linux_kernel", kernel_versions(), indirect=True, scope="session")


@pytest.fixture(scope="session")
def linux_kernel(request: pytest.FixtureRequest) -> Path:
    """The path of a kernel to boot."""
    return kernel_or_skip(getattr(request, "param", DEFAULT_VERSION))


@pytest.fixture
def linux_guest(linux_kernel: Path) -> Iterator[StartGuest]:
    """Starts guests: ``linux_guest("unix:PATH", ["report"], memory="128M")``, options as in ``GuestOptions``.

    Whatever still runs at the end of the test is killed. The console of a failed test is in the captured output.
    """
    guests: list[LinuxGuest] = []

    def start(host: str | os.PathLike[str], script: Sequence[str] | None = None, **options: Any) -> LinuxGuest:
        guest = LinuxGuest(GuestOptions(os.fspath(host), linux_kernel, script=script, **options), on_console_line=print)
        guests.append(guest)
        guest.start()
        return guest

    yield start
    for guest in guests:
        guest.kill()
