"""The models of a sweep over the devices of this process: each device trains its share of them, and sends nothing.

A model needs no other, so a device runs the program that one device would run for fewer models. Where the models do
not divide by the devices, the last of them is trained more than once for as long as a call takes, and its copies are
dropped: what a program takes and gives back is N models, whatever the number of devices, and so is a checkpoint.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")
AXIS = "models"
SPLIT, WHOLE = PartitionSpec(AXIS), PartitionSpec()


@dataclass(frozen=True)
class ModelAxis:
    """Where models stand. mesh: their devices; None for a single one, whose program has no mesh in it."""

    mesh: Mesh | None = None

    def jit(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """As jax.jit, for `function(shared, *models) -> models`.

        Args:
            function: it maps trees of arrays [n, ...] to one, for any n; each device calls it with all of `shared`
                and with its share of the models.
            options: of jax.jit.
        """
        mesh = self.mesh
        if mesh is None:
            return jax.jit(function, **options)

        def on_all(shared, *models):
            count = _count(models)
            specs = WHOLE, *(SPLIT for _ in models)
            each = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=SPLIT, check_vma=False)
            if count % mesh.size == 0:
                return each(shared, *models)
            places = jnp.minimum(jnp.arange(-(-count // mesh.size) * mesh.size), count - 1)
            found = each(shared, *jax.tree.map(lambda leaf: leaf[places], models))
            found = jax.tree.map(lambda leaf: leaf[:count], found)
            return jax.lax.with_sharding_constraint(found, NamedSharding(mesh, WHOLE))

        return jax.jit(on_all, **options)

    def place(self, models: T) -> T:
        """Put arrays [n, ...] where programs take them: a share on each device, or all where they do not divide."""
        if self.mesh is None or not jax.tree.leaves(models):
            return models
        split = _count(models) % self.mesh.size == 0
        return jax.device_put(models, NamedSharding(self.mesh, SPLIT if split else WHOLE))

    def whole(self, shared: T) -> T:
        """Put arrays on every device."""
        return shared if self.mesh is None else jax.device_put(shared, NamedSharding(self.mesh, WHOLE))

    def __str__(self) -> str:
        used = 1 if self.mesh is None else self.mesh.size
        return f"{used} device{'s' if used > 1 else ''}"


def spread(count: int) -> ModelAxis:
    """Spread models over the devices of this process, over no more of them than make the largest share smaller."""
    devices = jax.local_devices()
    share = -(-count // len(devices))
    used = -(-count // share)
    if used == 1:
        return ModelAxis()
    return ModelAxis(jax.make_mesh((used,), (AXIS,), devices=devices[:used], axis_types=(AxisType.Auto,)))


def _count(models: Any) -> int:
    return jax.tree.leaves(models)[0].shape[0]
