"""The one thing that pyproject.toml cannot say yet: the C extensions, which are optional.

Without a compiler the installation goes on without them, and everything works in pure Python.
"""

from glob import glob

from setuptools import Extension, setup

SOURCES = {
    "vmbus._native": sorted(glob("vmbus/native/*.c")),
    "vmbus.capture._records": ["vmbus/capture/_records.c"],
}

setup(
    ext_modules=[
        Extension(
            name,
            sources=sources,
            depends=sorted(glob("vmbus/native/*.h")),
            # Functions of Python are called for every packet: directly, and not by way of a table of stubs.
            extra_compile_args=["-O2", "-Wall", "-Wextra", "-fvisibility=hidden", "-fno-plt"],
            py_limited_api=True,
            optional=True,
        )
        for name, sources in SOURCES.items()
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
