"""Synthetic devices, the host ends: storage, network, and one module for each small device.

A new device is a new file here, with a function ``device_from(params)`` that makes it: then
``vmbus host --device NAME[:PARAMS]`` has it, NAME being the file's (:mod:`vmbus.devices.catalog`). A device of another
package is an entry point of that name in the group ``vmbus.devices``.
"""
