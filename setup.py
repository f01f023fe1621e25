"""The one thing that pyproject.toml cannot say yet: the C extension, which is optional.

Without a compiler the installation goes on without it, and everything works in pure Python.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "vmbus._native",
            sources=["vmbus/_native.c"],
            extra_compile_args=["-O2", "-Wall", "-Wextra"],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
