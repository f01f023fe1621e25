"""What people need to test their own devices: channel pairs, partitions in process, and the real Linux guest.

``fixtures`` is a pytest plugin that is installed with the package; docs/writing-a-device.md shows it in use.
"""
