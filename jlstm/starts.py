"""What the weights of a layer start from, with the numbers: the initializers for these shapes."""

import math
from typing import Any

from jlstm import checks, initializers, named, words
from jlstm.facts import GATE_NAMES, Layer
from jlstm.types import GATES


def starts_of(layer: Layer) -> dict[str, tuple[str, str]]:
    """Say what each weight of an LSTM starts from: by the name of the weight, its initializer and the values.

    Example:
        >>> import jlstm
        >>> for weight, (initializer, values) in starts_of(Layer("", jlstm.LSTM(3), 2)).items():
        ...     print(f"{weight}: {initializer}: {values}")
        kernel: glorot_uniform: uniform within ±√(6/(D + 4N)) = ±√(6/(2 + 12)) = ±0.6547
        recurrent_kernel: orthogonal: its 3 rows orthonormal: of length 1, at right angles
        bias: zeros: zeros; the slice of f, the forget gate, exactly 1 (unit_forget_bias)
    """
    spec, told = layer.spec, {}
    for weight in layer.weights:
        if weight.name == "peephole":
            told[weight.name] = ("zeros", "zeros: the plain cell")
            continue
        option = {"recurrent_kernel": "recurrent_initializer", "bias": "bias_initializer"}
        value = getattr(spec, option.get(weight.name, "kernel_initializer"))
        resolved = named.initializer("initializer", value)
        if weight.name == "bias" and isinstance(resolved, initializers.Chrono):
            values = _chrono(resolved)
        elif weight.name == "bias" and spec.unit_forget_bias:
            N = spec.units
            first, rest = (_start(resolved, (n,), (a,)) for n, a in ((N, "N"), (2 * N, "2N")))
            if first != rest:  # an initializer that looks at the shape sees [N] and [2N], as in Keras
                first = f"in the slice of {GATES[0]} {first}; in those of {GATES[2]} and {GATES[3]} {rest}"
            values = f"{first}; the slice of {GATES[1]}, the {GATE_NAMES[GATES[1]]}, exactly 1 (unit_forget_bias)"
        else:
            values = _start(resolved, weight.shape, weight.axes)
        told[weight.name] = (checks.written(value).strip("'"), values)
    return told


def _start(value: Any, shape: tuple[int, ...], axes: tuple[str, ...]) -> str:
    """The distribution that an initializer draws from for this shape, with its numbers."""
    if isinstance(value, initializers.VarianceScaling):
        return _scaled(value, shape, axes)
    if isinstance(value, initializers.Orthogonal):
        lines = "rows" if shape[0] <= shape[-1] else "columns"
        told = f"its {min(shape)} {lines} orthonormal" if min(shape) > 1 else f"one {lines.removesuffix('s')}"
        angles = ", at right angles" if min(shape) > 1 else ""
        return f"{told}: of length {abs(value.gain):g}{angles}"
    if isinstance(value, initializers.TorchUniform):
        return f"uniform within ±1/√{value.units} = ±{1 / math.sqrt(value.units):.4g}"
    if isinstance(value, initializers.Identity):
        return f"{value.gain:g} where row and column have the same number, zeros elsewhere"
    if isinstance(value, (initializers.RandomNormal, initializers.TruncatedNormal)):
        cut = isinstance(value, initializers.TruncatedNormal)
        rest = f", cut at {value.mean:g} ± {2 * value.stddev:g}" if cut else ""
        return f"normal, mean {value.mean:g}, standard deviation {value.stddev:g}{rest}"
    if isinstance(value, initializers.RandomUniform):
        return f"uniform from {value.minval:g} to {value.maxval:g}"
    if isinstance(value, initializers.Constant):
        return f"{value.value:g} everywhere"
    if isinstance(value, (initializers.Zeros, initializers.Ones)):
        return type(value).__name__.lower()
    return f"what {words.function(value)} gives"


def _scaled(value: initializers.VarianceScaling, shape: tuple[int, ...], axes: tuple[str, ...]) -> str:
    """Variance scaling: the limit or the standard deviation as a formula in letters and in numbers."""
    both, uniform = value.mode == "fan_avg", value.distribution == "uniform"
    top = value.scale * (2 if both else 1) * (3 if uniform else 1)
    use = {"fan_in": (0,), "fan_out": (-1,), "fan_avg": (0, -1)}[value.mode]
    sums = [" + ".join(str(sizes[k]) for k in use) for sizes in (axes, shape)]
    roots = [f"√({top:g}/{n if n.isdigit() or len(n) == 1 else f'({n})'})" for n in sums]
    root = math.sqrt(top / sum(shape[k] for k in use))
    if uniform:
        return f"uniform within ±{roots[0]} = ±{roots[1]} = ±{root:.4g}"
    cut = ", cut at about 2.27 of them" if value.distribution == "truncated_normal" else ""
    return f"normal, mean 0, standard deviation {roots[0]} = {roots[1]} = {root:.4g}{cut}"


def _chrono(value: initializers.Chrono) -> str:
    forget = f"in the slice of {GATES[1]} log U[1, {value.max_steps - 1}]"
    return f"{forget}, in that of {GATES[0]} its negative; in those of {GATES[2]} and {GATES[3]} zeros"
