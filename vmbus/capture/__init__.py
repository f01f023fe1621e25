"""Captures: recording what crosses VMBus into pcapng, reading it back, and importing other people's evidence.

docs/capture-format.md is the specification of the files. A *tap* (``vmbus.tap``) is the hook that a runtime calls; a
*recorder* writes files; a *stream* is the live pcapng on a Unix socket; a *capture* is the file.
"""
