"""Several devices, in one process or in many: one data axis over all of them, and process 0 that reads and writes.

The rows of a batch are split over the devices; parameters, optimizer state and keys are whole on each, and the axis
of the seeds stays one of vmap. A step is the program of one device with constraints on where rows lie: XLA's
partitioner puts in the sums over devices, so a mean is one over the whole batch, whatever the task divides by.

Every device draws the whole batch by the step's key and keeps its own rows. So the batch is the very same for any
number of devices, and no task has to know of it. Drawing rows apart would save what is a small part of a step, and
costs more than that where a generator has a loop that ends on its values (a grammar's strings): left to the
partitioner, each turn of it became a message between all devices.

Between dispatches the state is whole everywhere, the carry of a stateful run gathered. So process 0 alone keeps the
run directory, which no other process has to see, and a checkpoint is that of one device.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.config import Config, ConfigError

Array = jax.Array
T = TypeVar("T")
AXIS = "data"
GAVE_UP = "gave up"  # in a message in place of what was awaited


class Ended(Exception):
    """This process is to end without a word, for process 0 says why."""

    def __init__(self, status: int):
        super().__init__(status)
        self.status = status


@dataclass
class Devices:
    """Where a run computes.

    mesh: all devices of all processes, one axis; None for a single device, whose program has no mesh in it.
    """

    mesh: Mesh | None = None
    awaited: bool = field(default=False, repr=False)  # the other processes wait, or will, for what process 0 tells

    @property
    def processes(self) -> int:
        """The number of processes."""
        return 1 if self.mesh is None else jax.process_count()

    @property
    def first(self) -> bool:
        """Whether this is process 0, which reads and writes."""
        return self.processes == 1 or jax.process_index() == 0

    def __str__(self) -> str:
        devices = [jax.devices()[0]] if self.mesh is None else [*self.mesh.devices.flat]
        count = f"{len(devices)} devices" if len(devices) > 1 else "1 device"
        return f"{count} ({devices[0].device_kind}), {self.processes} process{'es' if self.processes > 1 else ''}"

    # --- in a program --------------------------------------------------------------------------------------------

    def jit(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """As jax.jit; what it returns is whole on every device."""
        return (
            jax.jit(function, **options)
            if self.mesh is None
            else jax.jit(function, out_shardings=self._whole, **options)
        )

    def draw(self, sample: Callable[..., tuple[Any, Any]], key: Array, stream: Any, batch_size: int) -> tuple[Any, Any]:
        """Draw a task's batch; each device keeps its rows of it.

        Returns:
            (stream, batch), as `sample(key, stream, batch_size)`.
        """
        if self.mesh is None:
            return sample(key, stream, batch_size)
        rows = batch_size // self.mesh.size

        def own(key, stream):
            stream, batch = sample(key, stream, batch_size)
            start = jax.lax.axis_index(AXIS) * rows
            return stream, jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, start, rows), batch)

        # The stream is alike on all devices, being drawn by the same keys, which the types could not tell of any task.
        whole, split = PartitionSpec(), PartitionSpec(AXIS)
        return jax.shard_map(
            own, mesh=self.mesh, in_specs=(whole, whole), out_specs=(whole, split), check_vma=False
        )(key, stream)  # fmt: skip

    def split(self, tree: T) -> T:
        """Let each device hold its rows of arrays [B, ...]."""
        if self.mesh is None:
            return tree
        return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, self._split), tree)

    # --- between programs ----------------------------------------------------------------------------------------

    def given(self, state: T) -> T:
        """Give process 0's state to all devices, to the bit.

        Args:
            state: arrays; on the other processes shapes will do.
        """
        if self.mesh is None:
            return state
        leaves, structure = jax.tree.flatten(state)
        if self.first:
            words = [np.asarray(a) for a in _words(leaves)]
        else:
            words = [np.zeros(a.shape, a.dtype) for a in jax.eval_shape(_words, leaves)]
        if self.processes > 1:
            sent = self._sum(np.frombuffer(b"".join(w.tobytes() for w in words), np.uint8), self.first)
            parts = np.split(sent, np.cumsum([w.nbytes for w in words])[:-1])
            words = [np.frombuffer(p.tobytes(), w.dtype).reshape(w.shape) for p, w in zip(parts, words, strict=True)]
        keys = [_is_key(leaf) for leaf in leaves]

        def typed(words):
            return [jax.random.wrap_key_data(w) if key else w for w, key in zip(words, keys, strict=True)]

        return jax.tree.unflatten(structure, self.jit(typed)(words))

    def cut(self, batch: T, rows: int) -> T:
        """Split an evaluation batch of so many rows over the devices; one that they do not divide stays whole."""
        if self.mesh is None:
            return batch
        sharding = self._whole if rows % self.mesh.size else self._split
        host = jax.tree.map(np.asarray, batch)
        return jax.tree.map(lambda a: jax.make_array_from_callback(a.shape, sharding, lambda index: a[index]), host)

    def local(self, tree: T) -> T:
        """Take what is whole on every device to the default device of this process."""
        return tree if self.mesh is None else jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), tree)

    def told(self, message: Any) -> Any:
        """Give process 0's message, of plain types, to all processes.

        Raises:
            Ended: process 0 had to give up instead; it says why itself.
        """
        if self.processes == 1:
            return message
        self.awaited = False
        text = np.frombuffer(json.dumps(message).encode(), np.uint8) if self.first else np.zeros(0, np.uint8)
        size = self._sum(np.frombuffer(np.int64(text.size).tobytes(), np.uint8), self.first).view(np.int64)
        sent = self._sum(text if self.first else np.zeros(size, np.uint8), self.first)
        found = json.loads(sent.tobytes())
        if not self.first and isinstance(found, dict) and GAVE_UP in found:
            raise Ended(found[GAVE_UP])
        return found

    def check(self, config: Config, where: str) -> None:
        """Raise where the batch cannot be split evenly."""
        size = 1 if self.mesh is None else self.mesh.size
        if config.train.batch_size % size:
            raise ConfigError(
                f"{where}: [train] batch_size must be a multiple of the number of devices, {size}, "
                f"got {config.train.batch_size}"
            )

    def agree(self, text: str, what: str) -> None:
        """Raise on all processes where a text is not the same on each.

        Args:
            text: anything that decides what is computed.
            what: its name, for the message.
        """
        digests = np.zeros((self.processes, 32), np.uint8)
        digests[jax.process_index()] = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
        digests = self._sum(digests, True)
        other = [str(n) for n in range(1, self.processes) if (digests[n] != digests[0]).any()]
        if other:
            raise ConfigError(f"process {', '.join(other)} must have {what} of process 0, got another")

    @property
    def _whole(self) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def _split(self) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    def _sum(self, value: np.ndarray, counts: bool) -> np.ndarray:
        """Add up bytes over the processes whose bytes count.

        All devices take part, so it is the very group of a training step, which is connected once: a group that is
        not has half a minute for all of its processes to come.
        """
        assert self.mesh is not None
        empty = np.zeros_like(value)
        leading = {d.process_index: k for k, d in reversed([*enumerate(self.mesh.devices.flat)])}

        def row(index):
            counted = counts and index[0].start == leading[jax.process_index()]
            return (value if counted else empty)[None]

        spread = jax.make_array_from_callback((self.mesh.size, *value.shape), self._split, row)
        return np.asarray(self.jit(lambda rows: jnp.sum(rows, axis=0, dtype=rows.dtype))(spread))


ONE = Devices()


def all_devices() -> Devices:
    """Take all devices of all processes."""
    return Devices(Mesh(np.array(jax.devices()), (AXIS,), axis_types=(AxisType.Auto,)))


def _words(leaves: list[Any]) -> list[Any]:
    """The words of the keys in place of them: keys are of JAX's default kind, for they come of `jax.random.key`."""
    return [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in leaves]


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
