"""Checkpoints of a training state by orbax: complete or not there, newest first.

Each is a directory named by its step. Orbax writes it under another name and renames it when complete, so a kill
leaves either the whole or nothing. A digest over the arrays guards against what a rename cannot: a disk that lost
part of a file. What fails it is passed over for the one before.
"""

import errno
import hashlib
import logging
import shutil
import sys
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.rundir import Stopped

KEEP = 2  # the newest, and one to fall back on
NAME = "{:010d}"
T = TypeVar("T")

logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax tells each step of each save; what fails is raised
logging.getLogger("asyncio").setLevel(logging.CRITICAL)


def save(folder: Path, step: int, state: Any, config: dict[str, Any]) -> None:
    """Save a state; the older ones but the last go away.

    Args:
        folder: the run's checkpoints/.
        step: updates done.
        state: any pytree of arrays, typed PRNG keys among them.
        config: plain types, kept beside the arrays.

    Raises:
        Stopped: the disk is full, or orbax could not write for another reason.
    """
    arrays = _flatten(state)
    about = {"step": step, "config": config, "digest": _digest(arrays)}
    path = (folder / NAME.format(step)).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _checkpointer() as writer:
            writer.save(
                path, args=ocp.args.Composite(state=ocp.args.StandardSave(arrays), about=ocp.args.JsonSave(about)),
                force=True,
            )  # fmt: skip
    except Exception as error:  # tensorstore reports a full disk by errors of its own
        for leftover in folder.glob(f"{path.name}.*"):
            shutil.rmtree(leftover, ignore_errors=True)
        text = " ".join(str(error).split())
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(t in text for t in _FULL_TEXTS):
            before = [s for s in steps(folder) if s != step]
            kept = f"keeps that of step {before[0]}" if before else "holds none yet"
            raise Stopped(f"disk full: no checkpoint at step {step}; {folder.parent} {kept}") from error
        raise Stopped(f"cannot save the checkpoint of step {step}: {text[:300]}") from error
    # What stands behind this step is of a run that was cut back here, because it could not be read.
    kept = [found for found in steps(folder) if found <= step][:KEEP]
    for old in set(steps(folder)) - set(kept):
        shutil.rmtree(folder / NAME.format(old), ignore_errors=True)


def latest(folder: Path, like: T) -> tuple[int, T] | None:
    """Restore the newest complete checkpoint.

    Args:
        folder: the run's checkpoints/.
        like: a state of the same structure; its arrays give shapes and dtypes.

    Returns:
        (step, state), or None where there is no complete checkpoint.
    """
    template = _flatten(like)
    for step in steps(folder):
        try:
            with _checkpointer() as reader:
                found = reader.restore(
                    (folder / NAME.format(step)).resolve(),
                    args=ocp.args.Composite(state=ocp.args.StandardRestore(template), about=ocp.args.JsonRestore()),
                )
            arrays = {name: np.asarray(value) for name, value in found["state"].items()}
            if found["about"]["digest"] == _digest(arrays):
                return step, _unflatten(arrays, like)
            reason = "its digest is not that of its arrays"
        except Exception as error:  # whatever a damaged one raises, the next may be good
            if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES):
                raise Stopped(f"cannot read the checkpoint of step {step} now: {error}") from error
            reason = " ".join(str(error).split())[:200]
        print(f"warning: {folder / NAME.format(step)} is damaged and passed over: {reason}", file=sys.stderr)
    return None


def steps(folder: Path) -> list[int]:
    """List the steps of complete checkpoints, newest first: orbax's unfinished ones have no name of digits alone."""
    return sorted((int(p.name) for p in folder.glob("*") if p.name.isdigit()), reverse=True)


_FULL_TEXTS = ("No space left", "RESOURCE_EXHAUSTED", "File too large", "Disk quota exceeded")


def _checkpointer() -> ocp.Checkpointer:
    # Of several processes one alone calls this: the state is whole there, and orbax must not wait for the others.
    alone = ocp.options.MultiprocessingOptions(primary_host=jax.process_index(), active_processes={jax.process_index()})
    options = ocp.CompositeOptions(multiprocessing_options=alone)
    parts = {
        "state": ocp.StandardCheckpointHandler(multiprocessing_options=alone),
        "about": ocp.JsonCheckpointHandler(multiprocessing_options=alone),
    }
    return ocp.Checkpointer(
        ocp.CompositeCheckpointHandler(composite_options=options, **parts), multiprocessing_options=alone
    )


def _flatten(state: Any) -> dict[str, np.ndarray]:
    # Flat names and at least one axis: orbax takes no NumPy scalars and no typed keys.
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path): np.atleast_1d(_plain(leaf)) for path, leaf in leaves}


def _unflatten(arrays: dict[str, np.ndarray], like: T) -> T:
    def restore(path, leaf):
        value = arrays[jax.tree_util.keystr(path)]
        if _is_key(leaf):
            data = jax.numpy.asarray(value.reshape(_plain(leaf).shape))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return jax.numpy.asarray(value.reshape(leaf.shape))

    return jax.tree_util.tree_map_with_path(restore, like)


def _plain(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _digest(arrays: dict[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name in sorted(arrays):
        value = arrays[name]
        total.update(f"{name} {value.dtype} {value.shape} ".encode())
        total.update(np.ascontiguousarray(value).tobytes())
    return total.hexdigest()
