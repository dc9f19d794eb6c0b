"""What changes the cell: peepholes, coupled gates, a projection, clipping, the cell of 1997."""

import math
from dataclasses import dataclass

from jlstm import checks, named
from jlstm.spec import call_repr


@dataclass(frozen=True, kw_only=True, repr=False)
class Variant:
    """What changes the cell itself. The default is the plain cell, and an option that is off costs nothing.

    The weights keep their shapes: under `coupled` and `forget_gate=False` the slice of the gate that is not
    used stays in the kernels, unread.

    Args:
        peephole: the gates also read the cell: i and f the old one, o the new one (Gers & Schmidhuber 2000).
        coupled: "input" makes i = 1 - f (CIFG, Greff et al. 2017), "forget" makes f = 1 - i (ONNX's
            input_forget).
        projection: width P of a projection without bias, h = (o ∘ φ(c)) @ projection (LSTMP, Sak et al. 2014;
            torch's proj_size).
        preact_clip: bound of all four pre-activations, peepholes included (ONNX's clip). c is not clipped.
        output_activation: the activation of c in h = o ∘ φ(c); None means the layer's `activation`.
        forget_gate: False gives the cell of 1997, c' = c + i ∘ g.

    Raises:
        TypeError, ValueError: an option has a wrong type or value, or two options contradict each other.

    Example:
        >>> import jlstm
        >>> jlstm.LSTM(4, variant=jlstm.Variant(peephole=True))
        LSTM(4, variant=Variant(peephole=True))
    """

    peephole: bool = False
    coupled: str | None = None
    projection: int | None = None
    preact_clip: float | None = None
    output_activation: named.Activation | None = None
    forget_gate: bool = True

    def __post_init__(self):
        checks.boolean("variant.peephole", self.peephole)
        checks.one_of("variant.coupled", self.coupled, (None, "input", "forget"))
        if self.projection is not None:
            object.__setattr__(self, "projection", checks.positive_int("variant.projection", self.projection))
        if self.preact_clip is not None:
            clip = checks.number("variant.preact_clip", self.preact_clip, "a finite number above 0", _above_0)
            object.__setattr__(self, "preact_clip", clip)
        if self.output_activation is not None:
            named.activation("variant.output_activation", self.output_activation)
        checks.boolean("variant.forget_gate", self.forget_gate)
        if self.coupled and not self.forget_gate:
            raise ValueError(f"variant.coupled must be None without a forget gate, got {self.coupled!r}")

    __repr__ = call_repr


def _above_0(value: float) -> bool:
    return 0 < value < math.inf
