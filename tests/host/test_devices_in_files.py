"""``--device FILE.py``: a device of somebody's own, without a package around it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vmbus.devices.catalog import make_devices, named_device
from vmbus.devices.device import DeviceError, NoSuchDevice
from vmbus.drivers.echo import EchoDriver, EchoLoad, exchange
from vmbus.testing.partitions import PartitionPair

PAGE = Path(__file__).parents[2] / "docs" / "writing-a-device.md"


def test_the_device_of_the_documentation_works_from_a_file(tmp_path: Path) -> None:
    source = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    (tmp_path / "mine.py").write_text(source)
    with PartitionPair(make_devices(others=[f"{tmp_path}/mine.py"]), [EchoDriver]) as pair:
        driver: EchoDriver = pair.guest.driver(EchoDriver)
        pair.guest.bus.wait(driver.ready)
        assert exchange(pair.guest.bus, driver, EchoLoad(packets=50)) > 0


def test_what_stands_behind_the_colon_is_handed_to_the_device(tmp_path: Path) -> None:
    file = tmp_path / "wanting.py"
    file.write_text("class Made:\n    def __init__(self, text): self.name = text\n\ndevice_from = Made\n")
    assert named_device(f"{file}:a:b").name == "a:b"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("x = 1\nimport nonsense_module\n", r"mine\.py, line 2: ModuleNotFoundError: .*nonsense_module"),
        ("def f(:\n", r"mine\.py: SyntaxError: .*line 1"),
        ("x = 1\n", r"mine\.py has no function device_from"),
    ],
)
def test_a_file_that_is_no_device_says_where(tmp_path: Path, source: str, says: str) -> None:
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(DeviceError, match=says):
        make_devices(others=[f"{tmp_path}/mine.py"])


def test_a_file_that_is_not_there_is_no_device(tmp_path: Path) -> None:
    with pytest.raises(NoSuchDevice, match=r"there is no file .*mine\.py"):
        make_devices(others=[f"{tmp_path}/mine.py"])
