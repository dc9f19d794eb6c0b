"""to_onnx: what it writes comes back, and specs that ONNX cannot express are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx_peer as op
import pytest

import jlstm
from jlstm import LSTM, Bidirectional, Stack, Variant
from jlstm.interop import from_onnx, to_onnx

ALL = {"return_sequences": True}
KEPT = {**ALL, "keep_order": True}  # outputs in the order of the input, as ONNX has them


def small(spec, D=3):
    """Params of a spec."""
    return op.draw(spec, D, 1, seed=0)[0]


@pytest.mark.parametrize(
    "spec",
    [
        LSTM(4),
        LSTM(4, use_bias=False, **KEPT),
        LSTM(4, go_backwards=True, **KEPT),
        LSTM(4, go_backwards=True, **ALL),
        LSTM(4, variant=Variant(peephole=True, coupled="forget", preact_clip=0.7, output_activation="relu"), **KEPT),
        LSTM(4, activation=jlstm.ScaledTanh(1.7159, 2 / 3), recurrent_activation="hard_sigmoid", **KEPT),
        Bidirectional(LSTM(4, **KEPT)),
        Bidirectional(LSTM(4, **KEPT), merge_mode="mul"),
        Bidirectional(LSTM(4, **KEPT), merge_mode=None),
        Bidirectional(LSTM(4), merge_mode=None),
        Bidirectional(LSTM(4), merge_mode="ave"),
        Bidirectional(LSTM(4, **KEPT), LSTM(4, activation=jlstm.ELU(0.5), go_backwards=True, **KEPT), merge_mode="sum"),
        Stack((Bidirectional(LSTM(3, **KEPT)), LSTM(4, go_backwards=True, **ALL), LSTM(2))),
        Stack((LSTM(4, **KEPT), Bidirectional(LSTM(2, **KEPT), merge_mode=None))),
    ],
    ids=repr,
)
@pytest.mark.parametrize("state", [False, True])
def test_what_to_onnx_writes_comes_back(spec, state):
    params = small(spec)
    if "ScaledTanh" in repr(spec):  # 2 / 3 comes back as the shortest decimal of the same float32
        back, _ = from_onnx(to_onnx(spec, params, state=state))
        assert np.float32(back.activation.beta) == np.float32(2 / 3)
        spec = LSTM(4, activation=back.activation, recurrent_activation="hard_sigmoid", **KEPT)
    op.same_layer(from_onnx(to_onnx(spec, params, state=state)), (spec, params))


@pytest.mark.parametrize("kept", ["forward", "backward"])
def test_one_direction_alone_is_refused(kept):
    spec = Bidirectional(LSTM(4, **ALL), merge_mode=None)
    model = to_onnx(spec, small(spec))
    for values in (model.graph.node, model.graph.output):
        for value in list(values):
            if not value.name.endswith(("x_time_major", "LSTM", kept)):
                values.remove(value)
    assert [value.name for value in model.graph.output] == [f"y_{kept}"]
    with pytest.raises(ValueError, match=f"outputs of .* must be merged in one way, got {kept}"):
        from_onnx(model)


def test_lengths_come_back_as_zeros_beyond_them():
    spec = LSTM(4, zero_output_for_mask=True, **KEPT)
    for state in (False, True):
        params = small(spec)
        op.same_layer(from_onnx(to_onnx(spec, params, lengths=True, state=state)), (spec, params))


def test_nested_stacks_come_back_flat():
    inner = Stack((LSTM(3, **ALL), LSTM(2, **ALL)))
    spec = Stack((inner, Stack((LSTM(4),))))
    back, params = from_onnx(to_onnx(spec, small(spec)))
    assert back == Stack((LSTM(3, **KEPT), LSTM(2, **KEPT), LSTM(4)))
    assert [p.kernel.shape for p in params] == [(3, 12), (3, 8), (2, 16)]


def test_model_is_of_opset_17_with_symbolic_sizes():
    model = to_onnx(LSTM(4, **ALL), small(LSTM(4)), lengths=False)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    (x,) = model.graph.input
    assert [d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim] == ["batch", "time", 3]


def test_float64_params_are_written_as_double():
    with jax.enable_x64(True):
        spec = LSTM(4, param_dtype="float64", **KEPT)
        params = small(spec)
        model = to_onnx(spec, params)
        op.same_layer(from_onnx(model), (spec, params))
    with pytest.raises(ValueError, match="must be at most 32 bits wide unless jax_enable_x64 is on, got float64"):
        from_onnx(model)


# --- specs that are refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "lengths", "message"),
    [
        (LSTM(4, variant=Variant(projection=2)), False, "variant.projection must be None for an ONNX LSTM, got 2"),
        (LSTM(4, variant=Variant(forget_gate=False)), False, "variant.forget_gate must be True for .*, got False"),
        (
            LSTM(4, variant=Variant(coupled="input")),
            False,
            "variant.coupled must be None or 'forget' for .*, got 'input'",
        ),
        (LSTM(4, activation="gelu"), False, "activation must be one of tanh, .* for an ONNX LSTM, got 'gelu'"),
        (
            LSTM(4, recurrent_activation=jnp.tanh),
            False,
            "recurrent_activation must be one of tanh, .* for an ONNX LSTM",
        ),
        (
            Stack((LSTM(4, **ALL), Bidirectional(LSTM(4, variant=Variant(output_activation="mish"))))),
            False,
            r"layers\[1\].forward.variant.output_activation must be one of",
        ),
        (
            Bidirectional(LSTM(4), LSTM(5, go_backwards=True)),
            False,
            "backward.units must be 4, as forward for a bidirectional ONNX LSTM, got 5",
        ),
        (
            Bidirectional(LSTM(4), LSTM(4, go_backwards=True, variant=Variant(preact_clip=1.0))),
            False,
            "backward.variant.preact_clip must be None, as forward",
        ),
        (
            LSTM(4, dtype="bfloat16"),
            False,
            "dtype must be None or float32, as params for an ONNX model, got 'bfloat16'",
        ),
        (
            LSTM(4, param_dtype="float16"),
            False,
            "the dtype of kernel must be float32 or float64 throughout for an ONNX",
        ),
        (
            LSTM(4, **ALL),
            True,
            "zero_output_for_mask must be True for an ONNX LSTM with lengths and return_sequences=True",
        ),
        (LSTM(4, zero_output_for_mask=True), True, "zero_output_for_mask must be False for an ONNX LSTM with lengths"),
        (
            Stack((LSTM(4, go_backwards=True, **ALL), LSTM(4))),
            True,
            r"layers\[0\].keep_order must be True for an ONNX LSTM with lengths below another, got False",
        ),
    ],
)
def test_specs_that_are_refused(spec, lengths, message):
    with pytest.raises(ValueError, match=message):
        to_onnx(spec, small(spec), lengths=lengths)


def test_params_that_do_not_fit():
    spec = Stack((LSTM(4, **ALL), LSTM(3)))
    with pytest.raises(TypeError, match="params must be a tuple of 2, got LSTMParams"):
        to_onnx(spec, small(LSTM(4)))
    with pytest.raises(ValueError, match=r"kernel of layers\[1\] must have shape \[4, 12\], got \[5, 12\]"):
        to_onnx(spec, (small(LSTM(4)), small(LSTM(3), D=5)))
    with pytest.raises(ValueError, match=r"params of layers\[0\].kernel must have shape \[D, 16\], got \[3, 12\]"):
        to_onnx(spec, (small(LSTM(3)), small(LSTM(3), D=4)))
    with pytest.raises(TypeError, match="spec must be LSTM or Bidirectional or Stack"):
        to_onnx("LSTM", None)
