"""What the flax nnx modules of jlstm share: a spec, its weights as nnx.Param, the keys of dropout."""

import inspect
from typing import Any

import jax
from flax import nnx

from jlstm import checks
from jlstm.compose import Bidirectional, Stack
from jlstm.layers import LSTM
from jlstm.paths import check_params


class SpecModule(nnx.Module):
    """A spec and its weights: `weights` has the structure of the spec's params, an nnx.Param for each array.

    model.train() and model.eval() set `deterministic`; dropout is drawn where it is False.
    """

    spec: Any  # one of three kinds, each with params and states of its own kind, which no checker can pair up

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        # flax's metaclass has a __call__(*args, **kwargs), which is all that help() would show of the arguments.
        signature = inspect.signature(cls.__init__)
        cls.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])

    def __init__(self, spec: LSTM | Bidirectional | Stack, params: Any, rngs: nnx.Rngs | None):
        checks.instance("spec", spec, LSTM, Bidirectional, Stack)
        if rngs is not None:
            checks.instance("rngs", rngs, nnx.Rngs)
        check_params(spec, params)
        self.spec = spec
        self.weights = nnx.data(jax.tree.map(nnx.Param, params))
        self.deterministic = False
        # Without such a stream each call is to bring one.
        own = rngs if rngs is not None and _has_dropout(spec) and _has_stream(rngs, "dropout") else None
        self.rngs = nnx.data(None if own is None else own["dropout"].fork())

    @property
    def params(self) -> Any:
        """The weights as plain arrays, as the functions of the spec take them."""
        return values(self.weights)

    def penalty(self) -> jax.Array:
        """Sum the weight regularizers: a scalar to add to the loss."""
        return self.spec.penalty(self.params)

    def constrain(self) -> None:
        """Project the weights onto their constraints, in place; to be called after the optimizer's update."""
        assign(self.weights, self.spec.constrain(self.params))

    def set_view(self, deterministic: bool | None = None) -> None:
        """Set what nnx.view sets.

        Args:
            deterministic: whether dropout is off.
        """
        if deterministic is not None:
            self.deterministic = deterministic

    def _dropout_key(self, deterministic: bool | None, rngs: nnx.Rngs | nnx.RngStream | jax.Array | None) -> Any:
        """Draw the key of one call, or None where nothing is dropped: the streams advance only where they are read."""
        deterministic = self.deterministic if deterministic is None else deterministic
        checks.boolean("deterministic", deterministic)
        if deterministic or not _has_dropout(self.spec):
            return None
        rngs = self.rngs if rngs is None else rngs
        if rngs is None:
            raise ValueError(
                "rngs must be given, to the module or to the call, with a stream 'dropout' or a default one to draw "
                "dropout from, got none"
            )
        if isinstance(rngs, nnx.Rngs):
            return stream(rngs, "dropout")()
        return rngs() if isinstance(rngs, nnx.RngStream) else rngs


def values(variables: Any) -> Any:
    """A pytree of nnx Variables as the same one of their arrays."""
    return jax.tree.map(lambda v: v.get_value(), variables, is_leaf=_is_variable)


def assign(variables: Any, arrays: Any) -> None:
    """Give each Variable of a pytree its new array, in the dtype that it has."""
    jax.tree.map(lambda v, a: v.set_value(a.astype(v.get_value().dtype)), variables, arrays, is_leaf=_is_variable)


def stream(rngs: nnx.Rngs, name: str) -> nnx.RngStream:
    """The stream of a name, or the default one."""
    if not _has_stream(rngs, name):
        raise ValueError(f"rngs must have a stream {name!r} or a default one, got {', '.join(rngs) or 'no stream'}")
    return rngs[name]


def _has_stream(rngs: nnx.Rngs, name: str) -> bool:
    return name in rngs or "default" in rngs


def _is_variable(value: Any) -> bool:
    return isinstance(value, nnx.Variable)


def _has_dropout(spec: Any) -> bool:
    if isinstance(spec, Stack):
        return spec.dropout > 0 or any(map(_has_dropout, spec.layers))
    if isinstance(spec, Bidirectional):
        return _has_dropout(spec.forward) or _has_dropout(spec.backward)
    return spec.dropout > 0 or spec.recurrent_dropout > 0
