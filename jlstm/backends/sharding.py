"""A custom call under a data-sharded jit: each device computes its own rows, and nothing is gathered.

To the partitioner a custom call is a black box, for which it would give every device the whole batch.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

try:
    from jax._src.dispatch import prim_requires_devices_during_lowering
except ImportError:  # no public way to say so: without it a call is not split, and computes the same
    prim_requires_devices_during_lowering = None

SPLIT = ("m", "b")  # the axes that may be split over devices: members, and rows of the batch


def needs_devices(primitive: Primitive) -> None:
    """Have JAX tell the lowering of a primitive which devices there are, as custom_partitioning asks for."""
    if prim_requires_devices_during_lowering is not None:
        prim_requires_devices_during_lowering.add(primitive)


def can_split(axis_context: Any) -> bool:
    """Whether custom_partitioning can serve this lowering: where no argument tells the mesh it finds none, and inside a
    shard_map over some of the axes it does not know the others."""
    manual = getattr(axis_context, "manual_axes", None)
    if manual is not None:
        return set(manual) == set(axis_context.mesh.axis_names)
    known = getattr(axis_context, "abstract_mesh", None) is not None
    return known and prim_requires_devices_during_lowering is not None


def split_by_rows(
    call: Callable[..., Sequence[jax.Array]],
    operands: Sequence[jax.Array],
    results: Callable[..., Sequence[jax.ShapeDtypeStruct]],
    axes: Sequence[str],
) -> list[jax.Array]:
    """Apply a call so that it may be split along the members and the rows of the batch.

    Args:
        call: from operands to results, for local shapes too.
        operands: arrays; an empty one with a single axis is an option that is off, and no matter of partitioning.
        results: from operands to the shapes of the results, likewise.
        axes: the names of the axes of each operand and then of each result, "m b t d", say. A result without b is a
            sum over the rows.

    Returns:
        The results.
    """

    def present(arrays):
        return [n for n, a in enumerate(arrays) if a.shape != (0,)]

    shapes = results(*operands)
    ins, outs = present(operands), present(shapes)
    in_axes, out_axes = ([axes[n].split() for n in ns] for ns in (ins, [len(operands) + n for n in outs]))

    def apply(*given):
        full = [jnp.zeros(0, a.dtype) for a in operands]
        for n, a in zip(ins, given, strict=True):
            full[n] = a
        computed = call(*full)
        return tuple(computed[n] for n in outs)

    def shardings(arg_shapes):
        """Those of operands and results, split as x is: the one operand that has all of the axes m, b, t, d."""
        shape = arg_shapes[in_axes.index(["m", "b", "t", "d"])]
        x = shape.sharding
        split = {  # evenly: the rows that would fill up the last device's part would enter the sums over the rows
            a: s
            for a, s, size in zip("mb", (*x.spec, None, None), shape.shape, strict=False)
            if s is not None
            and size % math.prod(x.mesh.shape[name] for name in ((s,) if isinstance(s, str) else s)) == 0
        }
        return (
            x.mesh,
            split,
            *(
                tuple(NamedSharding(x.mesh, PartitionSpec(*(split.get(a) for a in names))) for names in group)
                for group in (in_axes, out_axes)
            ),
        )

    def partition(mesh, arg_shapes, result_shapes):
        mesh, split, of_operands, of_results = shardings(arg_shapes)

        def local(*given):
            with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):  # no types of a mesh with explicit axes
                return tuple(
                    jax.lax.psum(a, split["b"]) if "b" in split and "b" not in names else a
                    for a, names in zip(apply(*given), out_axes, strict=True)
                )

        return mesh, local, of_results, of_operands

    def infer(mesh, arg_shapes, result_shapes):
        return shardings(arg_shapes)[-1]

    whole = dict.fromkeys(a for names in in_axes + out_axes for a in names if a not in SPLIT)  # as they come
    rule = " -> ".join(", ".join(" ".join(names) for names in group) for group in (in_axes, out_axes))
    split_apply = custom_partitioning(apply)
    split_apply.def_partition(
        partition=partition,
        infer_sharding_from_operands=infer,
        sharding_rule=rule,
        need_replication_factors=tuple(whole),
    )
    computed = split_apply(*(operands[n] for n in ins))
    full = [jnp.zeros(s.shape, s.dtype) for s in shapes]
    for n, a in zip(outs, computed, strict=True):
        full[n] = a
    return full
