"""The compiled kernel: found, loaded and registered with XLA at its first use, or a reason why not."""

import ctypes
import functools
import glob
import os
import sysconfig
import threading

import jax
from jaxlib.version import __version__ as jaxlib_version

INTERFACE = 2  # the order of operands, results and options; as jlstm_interface() in csrc/ffi.cc
TARGETS = ("jlstm_forward", "jlstm_backward")

_LOCK = threading.Lock()


def unavailable() -> str | None:
    """Say why the kernel cannot run in this process; None where it can, and then it is registered with XLA."""
    with _LOCK:
        return _load()


def instructions() -> str:
    """The instruction set that the kernel uses, where it is not unavailable."""
    library = _library()
    return "" if library is None else ctypes.string_at(library.jlstm_instructions()).decode()


@functools.cache
def _load() -> str | None:
    try:
        library = _library()
    except (OSError, AttributeError) as error:  # no such file, not a library, or one of something else
        return f"the kernel could not be loaded: {error}"
    if library is None:
        return "the kernel was not built when jlstm was installed (no C++17 compiler, or the build failed)"
    if library.jlstm_interface() != INTERFACE:
        return "the kernel was built from other sources than these; install jlstm again"
    if library.jlstm_instructions() is None:
        return "the processor lacks AVX2 and FMA"
    try:
        for target in TARGETS:
            jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, target)), platform="cpu")
    except Exception as error:  # XLA refuses what was built against another version of its interface
        return f"jaxlib {jaxlib_version} refused the kernel, which was built against another version: {error}"
    return None


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The library built against this jaxlib, or one built against another, which XLA may accept or refuse."""
    folder = os.path.dirname(__file__)
    built = sorted(glob.glob(os.path.join(glob.escape(folder), f"_cpu-jaxlib*-{sysconfig.get_platform()}.so")))
    if not built:
        return None
    own = [path for path in built if os.path.basename(path).startswith(f"_cpu-jaxlib{jaxlib_version}-")]
    library = ctypes.CDLL((own or built)[-1])
    library.jlstm_instructions.restype = ctypes.c_void_p
    return library
