"""The one thing that pyproject.toml cannot say yet: the C extensions, which are optional.

Without a compiler the installation goes on without them, and everything works in pure Python.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            name,
            sources=[source],
            extra_compile_args=["-O2", "-Wall", "-Wextra"],
            py_limited_api=True,
            optional=True,
        )
        for name, source in (
            ("vmbus._native", "vmbus/_native.c"),
            ("vmbus.capture._records", "vmbus/capture/_records.c"),
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
