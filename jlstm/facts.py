"""What a spec configures, as numbers: the weights of every LSTM in it, their counts, operations and bytes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from jlstm.compose import Bidirectional, Stack
from jlstm.layers import LSTM
from jlstm.paths import flatten, params_like, state_like
from jlstm.types import GATES, PEEPHOLES, wider_dtype

GATE_NAMES = {"g": "candidate"} | {
    gate: f"{word} gate" for gate, word in (("i", "input"), ("f", "forget"), ("o", "output"))
}
_ROLES = {
    "kernel": "what the gates read of x",
    "recurrent_kernel": "what the gates read of h, the output of the step before",
    "bias": "what the gates add",
    "peephole": "what the gates read of c, each unit of its own cell alone",
    "projection": "makes h out of the units",
}


@dataclass(frozen=True)
class Asked:
    """What is to be explained; timesteps and batch_size are None where they were not said."""

    spec: LSTM | Bidirectional | Stack
    input_size: int
    timesteps: int | None = None
    batch_size: int | None = None

    @property
    def layers(self) -> list["Layer"]:
        """Its LSTMs, as layers_of."""
        return list(layers_of(self.spec, self.input_size))


@dataclass(frozen=True)
class Weight:
    """One array of weights.

    name: the field of LSTMParams. axes: of what width each axis is, in letters. slices: where along its last axis (of
    a peephole its first) each gate's own part lies, as (first, last + 1). role: what it does.
    """

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    slices: dict[str, tuple[int, int]]
    role: str

    @property
    def count(self) -> int:
        """The number of parameters in it."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Formula:
    """A count worked out: in letters, in numbers, and the result."""

    letters: str
    numbers: str
    total: int


@dataclass(frozen=True)
class Operations:
    """The arithmetic of one time step of one row, forwards.

    products: multiplications and additions of the matrix products. elementwise: those between vectors. activations:
    values of σ and φ.
    """

    products: int
    elementwise: int
    activations: int


@dataclass(frozen=True)
class Layer:
    """One LSTM of a spec.

    path: what leads to it from the spec, "" for the spec itself, such as "layers[1].backward". input_size: D, the
    width of what it reads.
    """

    path: str
    spec: LSTM
    input_size: int

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Its weights, in the order of LSTMParams."""
        N, made = self.spec.units, []
        h = "P" if self.spec.variant.projection else "N"
        axes = {
            "kernel": ("D", "4N"), "recurrent_kernel": (h, "4N"), "bias": ("4N",), "peephole": ("3", "N"),
            "projection": ("N", "P"),
        }  # fmt: skip
        for name, array in flatten(params_like(self.spec, self.input_size)).items():
            slices = {gate: (k * N, (k + 1) * N) for k, gate in enumerate(GATES)}
            if name == "peephole":
                slices = {gate: (k, k + 1) for k, gate in enumerate(PEEPHOLES)}
            elif name == "projection":
                slices = {}
            made.append(Weight(name, axes[name], array.shape, slices, _ROLES[name]))
        return tuple(made)

    @property
    def state_dtype(self) -> np.dtype:
        """The dtype of its state as initial_state makes it, and of its gates."""
        dtypes = self.spec.param_dtype, self.spec.dtype or self.spec.param_dtype, "float32"
        return np.dtype(reduce(wider_dtype, dtypes))

    @property
    def unread(self) -> str | None:
        """The gate whose slices the variant leaves unread; they keep their place and are counted."""
        variant = self.spec.variant
        return {"input": "i", "forget": "f"}.get(variant.coupled or "", None if variant.forget_gate else "f")

    @property
    def formula(self) -> Formula:
        """The number of parameters: 4·(N·(D + N) + N) for the plain cell."""
        spec, N, D, P = self.spec, self.spec.units, self.input_size, self.spec.output_size
        bias = spec.use_bias
        letters = f"N·(D + {'P' if spec.variant.projection else 'N'})"
        numbers = f"{N}·({D} + {P})"
        letters, numbers = (f"4·({a} + {n})" if bias else f"4·{a}" for a, n in ((letters, "N"), (numbers, N)))
        if spec.variant.peephole:
            letters, numbers = f"{letters} + 3·N", f"{numbers} + 3·{N}"
        if spec.variant.projection:
            letters, numbers = f"{letters} + N·P", f"{numbers} + {N}·{P}"
        return Formula(letters, numbers, sum(weight.count for weight in self.weights))

    @property
    def operations(self) -> Operations:
        """What one time step of one row costs forwards.

        Products: x @ kernel, h @ recurrent_kernel and the projection, a multiplication and an addition for each
        weight. Elementwise: the sum of both products and the bias [4N each], c' = f∘c + i∘g [3N], h = o∘φ(c) [N], and
        6N for peepholes, N for 1 - f or 1 - i.
        """
        spec, N, P = self.spec, self.spec.units, self.spec.output_size
        products = 2 * 4 * N * (self.input_size + P) + (2 * N * P if spec.variant.projection else 0)
        gates = 4 + 4 * spec.use_bias + (3 if spec.variant.forget_gate else 2) + 1 + 6 * spec.variant.peephole
        gates += spec.variant.coupled is not None
        return Operations(products, gates * N, (5 - (self.unread is not None)) * N)

    @property
    def kept(self) -> int:
        """Numbers that training keeps of one time step of one row until the backward pass: gates, cell, output."""
        return 5 * self.spec.units + self.spec.output_size


@dataclass(frozen=True)
class Level:
    """A layer of a stack with all its nested stacks opened, and what it reads.

    turned: whether index k of its input belongs to x[:, T-1-k]: a layer below returned its outputs in the order of
        processing. seen: what of x its input at the place of x[:, t] hangs on: "own", x[:, t] alone; "before", x[:, 0]
        to x[:, t]; "after", x[:, t] to the end; "all".
    """

    spec: LSTM | Bidirectional
    turned: bool
    seen: str

    def backwards(self, one: LSTM) -> bool:
        """Whether `one`, an LSTM of this level, goes from the end of x to its start."""
        return one.go_backwards != self.turned

    def seen_by(self, one: LSTM) -> str:
        """What of x the output of `one` hangs on, in the words of `seen`."""
        way = "after" if self.backwards(one) else "before"
        return way if self.seen in ("own", way) else "all"

    @property
    def above(self) -> tuple[bool, str]:
        """turned and seen of its outputs."""
        if isinstance(self.spec, Bidirectional):
            return self.turned, "all"
        return self.turned != (self.spec.go_backwards and not self.spec.keep_order), self.seen_by(self.spec)


def levels_of(spec: Any) -> list[Level]:
    """Go through the layers of a spec from the bottom; the two of a Bidirectional are of one level."""
    levels: list[Level] = []

    def add(spec: Any) -> None:
        if isinstance(spec, Stack):
            for layer in spec.layers:
                add(layer)
        else:
            levels.append(Level(spec, *(levels[-1].above if levels else (False, "own"))))

    add(spec)
    return levels


def layers_of(spec: Any, input_size: int, path: str = "") -> Iterator[Layer]:
    """Go through the LSTMs of a spec, from the bottom, forwards before backwards.

    Example:
        >>> import jlstm
        >>> spec = jlstm.Stack((jlstm.Bidirectional(jlstm.LSTM(5, return_sequences=True)), jlstm.LSTM(4)))
        >>> [(layer.path, layer.input_size, layer.formula.total) for layer in layers_of(spec, 3)]
        [('layers[0].forward', 3, 180), ('layers[0].backward', 3, 180), ('layers[1]', 10, 240)]
    """
    dot = f"{path}." if path else ""
    if isinstance(spec, Bidirectional):
        yield Layer(f"{dot}forward", spec.forward, input_size)
        yield Layer(f"{dot}backward", spec.backward, input_size)
    elif isinstance(spec, Stack):
        for number, layer in enumerate(spec.layers):
            yield from layers_of(layer, input_size, f"{dot}layers[{number}]")
            input_size = layer.output_size
    else:
        yield Layer(path, spec, input_size)


def bytes_of(spec: Any, input_size: int) -> int:
    """The bytes of all weights, in the dtypes that init gives them."""
    arrays = flatten(params_like(spec, input_size)).values()
    return sum(math.prod(a.shape) * np.dtype(a.dtype).itemsize for a in arrays)


def state_size(spec: Any) -> int:
    """The numbers in the state of one row."""
    return sum(math.prod(a.shape) for a in flatten(state_like(spec, 1)).values())


def outputs_of(spec: Any, dtype: Any = "float32") -> list[tuple[int, np.dtype]]:
    """Width and dtype of what comes out for x of this dtype; two where a Bidirectional merges nothing."""
    if isinstance(spec, Stack):
        outputs = []
        for layer in spec.layers:
            outputs = outputs_of(layer, dtype)
            dtype = outputs[0][1]
        return outputs
    if isinstance(spec, Bidirectional):
        ways = [*outputs_of(spec.forward, dtype), *outputs_of(spec.backward, dtype)]
        return ways if spec.merge_mode is None else [(spec.output_size, wider_dtype(ways[0][1], ways[1][1]))]
    return [(spec.output_size, np.dtype(spec.dtype or dtype))]


def remats(layer: Layer, timesteps: int) -> bool:
    """Whether the layer computes steps again in the backward pass: one chunk alone is what it would be without."""
    return layer.spec.remat_every is not None and layer.spec.remat_every < timesteps


def kept_bytes(layers: list[Layer], timesteps: int) -> int:
    """Bytes that training keeps of one row over a whole sequence: of all steps, or with remat_every of some."""
    total = 0
    for layer in layers:
        every = layer.spec.remat_every
        if every is None or not remats(layer, timesteps):
            numbers = layer.kept * timesteps
        else:  # the state at each k-th step, and all of k steps while they are computed again
            numbers = (layer.spec.units + layer.spec.output_size) * -(-timesteps // every) + layer.kept * every
        total += numbers * layer.state_dtype.itemsize
    return total
