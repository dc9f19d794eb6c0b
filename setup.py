"""Build the CPU kernel where that is possible; everything else is in pyproject.toml.

The kernel is optional: without a C++17 compiler, or where the build fails, the install succeeds and jlstm uses XLA.
"""

import glob
import os
import sysconfig

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NAME = "jlstm.backends._cpu"
SOURCES = [f"jlstm/backends/csrc/{name}.cc" for name in ("avx2", "avx512", "ffi")]


class BuildKernel(build_ext):
    """A plain shared library, not a Python module, named after the jaxlib whose headers it was built with, so that
    environments that share a checkout do not overwrite each other's."""

    def get_ext_filename(self, fullname):
        """Name the file; _cpu-jaxlib0.10.2-linux-x86_64.so, say."""
        import jaxlib

        return os.path.join(*fullname.split(".")) + f"-jaxlib{jaxlib.__version__}-{sysconfig.get_platform()}.so"

    def get_export_symbols(self, ext):
        """Export what the sources mark, and no PyInit function."""
        return ext.export_symbols


def extensions():
    """The kernel, or nothing where there is no jaxlib to build against."""
    try:
        import jax.ffi

        include = jax.ffi.include_dir()
    except Exception as error:  # not there, or one that does not fit the other
        print(f"jlstm: the CPU kernel is not built: {error}")
        return []
    return [
        Extension(
            NAME,
            SOURCES,
            depends=glob.glob("jlstm/backends/csrc/*.h"),
            include_dirs=[include],
            language="c++",
            # no -march: the instruction set is chosen at run time. -w: XLA's headers warn.
            extra_compile_args=["-std=c++17", "-O2", "-g0", "-fvisibility=hidden", "-w"],
            optional=True,
        )
    ]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernel})
