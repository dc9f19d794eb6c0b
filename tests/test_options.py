"""What explain says that options do: that all are told, and that it is so, against what the layers compute."""

import dataclasses
import re
from dataclasses import replace

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlstm
from jlstm import LSTM, Bidirectional, Chrono, MaxNorm, MinMaxNorm, Stack, UnitNorm, Variant
from jlstm.dropout import lstm_dropout_masks
from jlstm.facts import Asked
from jlstm.options import left_alone, options_of

B, T, D, N = 3, 5, 2, 4
X, MASK = cases.array(cases.inputs(0, B, T, D)), jnp.asarray(cases.bools(1, B, T)).at[:, -1].set(False)
KEY = jax.random.key(0)


def told(spec, timesteps=T):
    return {option.text: option.does for option in options_of(Asked(spec, D, timesteps))}


def one(spec):
    (does,) = told(spec).values()
    return does


OTHER = {  # a value that is not the default, for every field of LSTM that the part tells of
    "activation": "relu", "recurrent_activation": "hard_sigmoid", "use_bias": False, "unit_forget_bias": False,
    "kernel_regularizer": "l2", "recurrent_regularizer": "l1", "bias_regularizer": "l2", "activity_regularizer": "l2",
    "kernel_constraint": "max_norm", "recurrent_constraint": "non_neg", "bias_constraint": "unit_norm",
    "dropout": 0.2, "recurrent_dropout": 0.2, "implementation": 1, "return_sequences": True, "go_backwards": True,
    "unroll": 2, "zero_output_for_mask": True, "dtype": "bfloat16", "param_dtype": "bfloat16", "keep_order": True,
    "remat_every": 2, "backend": "xla",
}  # fmt: skip


def test_every_option_is_told():
    fields = {f.name for f in dataclasses.fields(LSTM)} - {"units", "variant"}
    assert fields - {"kernel_initializer", "recurrent_initializer", "bias_initializer"} == set(OTHER)
    for name, value in OTHER.items():
        ((text, does),) = told(LSTM(N, **{name: value})).items()
        assert text == f"{name}={value!r}"
        assert does.endswith(".")
    variants = {"peephole": True, "coupled": "input", "projection": 2, "preact_clip": 3.0, "output_activation": "relu"}
    for name, value in (*variants.items(), ("forget_gate", False)):
        assert list(told(LSTM(N, variant=Variant(**{name: value})))) == [f"variant.{name}={value!r}"]
    assert told(LSTM(N)) == {}


# --- an option that is said to do nothing does nothing, and the others do something ---------------------------------

NOTHING = {
    "implementation": LSTM(N, implementation=1),
    "implementation, four masks": LSTM(N, implementation=1, dropout=0.5, recurrent_dropout=0.5),
    "keep_order": LSTM(N, keep_order=True, return_sequences=True),
    "keep_order, one output": LSTM(N, keep_order=True, go_backwards=True),
    "unit_forget_bias": LSTM(N, unit_forget_bias=False, use_bias=False),
    "unit_forget_bias, Chrono": LSTM(N, unit_forget_bias=False, bias_initializer=Chrono(9)),
    "bias_regularizer": LSTM(N, bias_regularizer="l2", use_bias=False),
    "bias_constraint": LSTM(N, bias_constraint="unit_norm", use_bias=False),
}
SOMETHING = {
    "implementation": LSTM(N, implementation=1, dropout=0.5),
    "keep_order": LSTM(N, keep_order=True, go_backwards=True, return_sequences=True),
    "unit_forget_bias": LSTM(N, unit_forget_bias=False),
    "zero_output_for_mask": LSTM(N, zero_output_for_mask=True),
    "bias_regularizer": LSTM(N, bias_regularizer="l2"),
}


def all_of(layer):
    """What a layer gives: weights, state and outputs in training with a mask, penalty, constrained weights."""

    def run(x, mask):
        params = layer.init(KEY, D)
        made = layer.apply(params, layer.initial_state(B), x, mask=mask, key=KEY)
        return params, made, layer.penalty(params), layer.constrain(params)

    return [np.asarray(a) for a in jax.tree.leaves(jax.jit(run, compiler_options=cases.QUICKLY_COMPILED)(X, MASK))]


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(*pair) for pair in zip(a, b, strict=True))


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_is_nothing(name):
    spec, option = NOTHING[name], name.partition(",")[0]
    assert told(spec)[f"{option}={getattr(spec, option)!r}"].startswith("nothing")
    assert same(all_of(spec), all_of(replace(spec, **{option: getattr(LSTM, option)})))


@pytest.mark.parametrize("option", SOMETHING)
def test_something_is_something(option):
    spec = SOMETHING[option]
    assert not told(spec)[f"{option}={getattr(spec, option)!r}"].startswith("nothing")
    assert not same(all_of(spec), all_of(replace(spec, **{option: getattr(LSTM, option)})))


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("option", ["zero_output_for_mask", "keep_order"])
def test_in_a_bidirectional_two_options_do_nothing(sequences, option):
    backward = LSTM(N, return_sequences=sequences, go_backwards=True)
    plain, other = (
        Bidirectional(LSTM(N, return_sequences=sequences), replace(backward, **{option: on})) for on in (False, True)
    )
    assert told(other)[f"{option}=True"].startswith("nothing")
    got = all_of(other)
    assert same(got, all_of(plain))
    if option == "zero_output_for_mask":
        y = got[len(jax.tree.leaves(other.initial_state(B))) + 6]  # after the weights and the state
        assert y.shape[-1] == 2 * N
        zeros = not np.take(y, -1, axis=1).any() if sequences else not y.any()  # the last step is masked
        assert ("here they are zeros" in told(other)[f"{option}=True"]) == zeros


# --- numbers -------------------------------------------------------------------------------------------------------


def masks(spec, batch):
    def draw():
        return lstm_dropout_masks(KEY, spec, batch, D, jnp.float32)

    return jax.jit(draw, compiler_options=cases.QUICKLY_COMPILED)()


def test_dropout_draws_as_often_and_scales_as_it_says():
    for options, words, shape in (
        ({}, "the same for all gates", (D,)),
        ({"implementation": 1}, "one for each gate", (4, D)),
        ({"recurrent_dropout": 0.5}, "one for each gate", (4, D)),
    ):
        spec = LSTM(N, dropout=0.2, **options)
        does = told(spec)["dropout=0.2"]
        assert words in does
        assert f"each of the {D} numbers" in does
        many = np.asarray(masks(spec, 5000).input)
        assert many.shape == (5000, *shape)
        zeros, scale = (float(re.search(rf"{words} ([\d.]+)", does)[1]) for words in ("probability", "multiplied by"))
        assert set(np.unique(many)) == {0, np.float32(scale)}
        assert (many == 0).mean() == pytest.approx(zeros, abs=0.015)  # 10,000 draws: 4 standard deviations
    projected = LSTM(N, recurrent_dropout=0.3, variant=Variant(projection=3))
    assert "each of the 3 numbers of h" in told(projected)["recurrent_dropout=0.3"]
    assert masks(projected, B).recurrent.shape == (B, 4, 3)


@pytest.mark.parametrize(
    ("regularizer", "words", "expected"),
    [
        ("l2", "0.01·Σw²", lambda w: 0.01 * (w**2).sum()),
        (jlstm.L1(0.5), "0.5·Σ|w|", lambda w: 0.5 * np.abs(w).sum()),
        (jlstm.L1L2(0.5, 0.25), "0.5·Σ|w| + 0.25·Σw²", lambda w: 0.5 * np.abs(w).sum() + 0.25 * (w**2).sum()),
        ("orthogonal_regularizer", "0.01 times the mean |cosine| between two rows of w", None),
        (jnp.sum, "sum of w", lambda w: w.sum()),
    ],
)
def test_penalties(regularizer, words, expected):
    spec = LSTM(N, recurrent_regularizer=regularizer)
    assert one(spec) == f"layer.penalty(params) has {words} in it, w the recurrent_kernel; add it to the loss."
    params = spec.init(KEY, D)
    w = np.asarray(params.recurrent_kernel, "float64")
    if expected is None:
        unit = w / np.linalg.norm(w, axis=1, keepdims=True)
        expected = 0.01 * np.abs(unit @ unit.T)[np.triu_indices(N, 1)].mean()
        np.testing.assert_allclose(spec.penalty(params), expected, atol=1e-8)
    else:
        np.testing.assert_allclose(spec.penalty(params), expected(w), rtol=1e-5)
    assert "divided by the batch size" in one(LSTM(N, activity_regularizer=regularizer))


@pytest.mark.parametrize(
    ("constraint", "words", "axis", "low", "high"),
    [
        ("max_norm", "scales each column of kernel down to norm 2 where it is above", 0, 0, 2),
        (MaxNorm(0.5, axis=1), "scales each row of kernel down to norm 0.5 where it is above", 1, 0, 0.5),
        (MaxNorm(0.5, axis=(0, 1)), "scales kernel as a whole down to norm 0.5 where it is above", (0, 1), 0, 0.5),
        (UnitNorm(axis=-1), "scales each row of kernel to norm 1", 1, 1, 1),
        (MinMaxNorm(0.5, 0.75), "scales each column of kernel to a norm between 0.5 and 0.75", 0, 0.5, 0.75),
    ],
)
def test_constraints(constraint, words, axis, low, high):
    spec = LSTM(N, kernel_constraint=constraint, kernel_initializer=jlstm.RandomNormal(0.0, 2.0))
    assert told(spec)[f"kernel_constraint={constraint!r}"] == f"layer.constrain(params) {words}."
    norms = np.sqrt((np.asarray(spec.constrain(spec.init(KEY, D)).kernel) ** 2).sum(axis=axis))
    assert (low - 1e-5 <= norms).all()
    assert (norms <= high + 1e-5).all()


def test_constraints_of_a_bias_and_of_ones_own():
    assert one(LSTM(N, bias_constraint="unit_norm")) == "layer.constrain(params) scales bias as a whole to norm 1."
    assert one(LSTM(N, bias_constraint="non_neg")) == "layer.constrain(params) sets what is negative in bias to 0."
    assert "puts your own function of kernel in its place" in one(LSTM(N, kernel_constraint=lambda w: w))


def test_dtypes_are_those_of_the_arrays():
    spec = LSTM(N, dtype="bfloat16")
    assert one(spec).startswith("x is cast to bfloat16, the products are computed in it (by cpu in float32) and y ")
    assert one(spec).endswith("initial_state makes h and c in float32.")
    state, y = jax.eval_shape(lambda: spec.apply(spec.init(KEY, D), spec.initial_state(B), X))
    assert (y.dtype, state.c.dtype) == (jnp.bfloat16, jnp.float32)
    assert one(LSTM(N, param_dtype="float64")).endswith("It needs jax_enable_x64.")
    with pytest.raises(ValueError, match="jax_enable_x64"):
        LSTM(N, param_dtype="float64").init(KEY, D)


def test_remat_tells_where_it_saves_nothing():
    assert "the state before each 2 steps alone" in one(LSTM(N, remat_every=2))
    assert told(LSTM(N, remat_every=T))[f"remat_every={T}"].startswith("nothing is saved: 5 time steps are no more")
    assert "alone" in told(LSTM(N, remat_every=T), timesteps=None)[f"remat_every={T}"]


def test_places_of_options():
    both = Bidirectional(LSTM(N, return_sequences=True, dropout=0.5), merge_mode="sum")
    spec = Stack((both, LSTM(N, return_sequences=True), LSTM(N)), dropout=0.2)
    found = {option.text: option.paths for option in options_of(Asked(spec, D))}
    assert found == {
        "dropout=0.2": ("",),
        "merge_mode='sum'": ("layers[0]",),
        "dropout=0.5": ("layers[0].forward", "layers[0].backward"),
        "return_sequences=True": ("layers[0].forward", "layers[0].backward", "layers[1]"),
        "go_backwards=True": ("layers[0].backward",),
    }
    text = str(jlstm.explain(spec, D))
    assert "\nlayers[0].forward and layers[0].backward: dropout=0.5\n" in text
    assert "\ndropout=0.2\n  between the layers: " in text
    assert "\nevery LSTM: dropout=0.5\n" in str(jlstm.explain(both, D))


def test_what_is_left_at_its_default_is_told():
    assert left_alone(Asked(LSTM(N), D)) == (
        "Not set, and so by default: no dropout, no regularizer, no constraint, the dtype of x for the computation and "
        "for y and weights in float32."
    )
    stack = Stack((LSTM(N, return_sequences=True, dtype="bfloat16"), LSTM(N, kernel_constraint="non_neg")), dropout=0.5)
    assert left_alone(Asked(stack, D)) == "Not set, and so by default: no regularizer and weights in float32."
