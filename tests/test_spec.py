"""Specs as values: equal, hashable, printed as the call that makes them, and round trips through JSON and TOML."""

import json
import math
import tomllib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jlstm
from jlstm import LSTM, Bidirectional, Stack, Variant, named

NAMESPACE = {name: getattr(jlstm, name) for name in jlstm.__all__}
NAMESPACE |= {"inf": math.inf}

finite = st.floats(-10, 10, allow_nan=False)
positive = st.floats(0.001, 10)
axis = st.one_of(st.integers(0, 1), st.just((0, 1)))


def named_or(names, *values):
    return st.one_of(st.sampled_from(sorted(names)), *values)


activations = named_or(
    named.ACTIVATIONS,
    st.builds(jlstm.HardSigmoid, finite, finite),
    st.builds(jlstm.LeakyReLU, positive),
    st.builds(jlstm.ELU, positive),
    st.builds(jlstm.Affine, finite, finite),
    st.builds(jlstm.ScaledTanh, finite, finite),
    st.builds(jlstm.ThresholdedReLU, finite),
)
initializers = named_or(
    named.INITIALIZERS,
    st.builds(jlstm.Constant, finite),
    st.builds(jlstm.RandomNormal, finite, positive),
    st.builds(jlstm.TorchUniform, st.integers(1, 100)),
    st.builds(jlstm.Orthogonal, positive),
    st.builds(
        jlstm.VarianceScaling,
        positive,
        st.sampled_from(["fan_in", "fan_out", "fan_avg"]),
        st.sampled_from(["truncated_normal", "untruncated_normal", "uniform"]),
    ),
)
regularizers = st.none() | named_or(
    named.REGULARIZERS,
    st.builds(jlstm.L1, positive),
    st.builds(jlstm.L1L2, l1=positive, l2=positive),
    st.builds(jlstm.OrthogonalRegularizer, positive, st.sampled_from(["rows", "columns"])),
)
constraints = st.none() | named_or(
    named.CONSTRAINTS,
    st.builds(jlstm.MaxNorm, positive, axis),
    st.builds(jlstm.UnitNorm, axis),
    st.builds(jlstm.MinMaxNorm, st.just(0.5), positive.map(lambda v: 0.5 + v), st.floats(0, 1), axis),
)
rates = st.floats(0, 1, exclude_max=True)
dtypes = st.sampled_from(["float32", "bfloat16", "float16", "float64"])


@st.composite
def variants(draw):
    forget_gate = draw(st.booleans())
    return Variant(
        peephole=draw(st.booleans()),
        coupled=draw(st.sampled_from([None, "input", "forget"])) if forget_gate else None,
        projection=draw(st.none() | st.integers(1, 9)),
        preact_clip=draw(st.none() | positive),
        output_activation=draw(st.none() | activations),
        forget_gate=forget_gate,
    )


def lstms(**fixed):
    fields = {
        "units": st.integers(1, 300),
        "activation": activations,
        "recurrent_activation": activations,
        "use_bias": st.booleans(),
        "kernel_initializer": initializers,
        "recurrent_initializer": initializers,
        "bias_initializer": initializers | st.builds(jlstm.Chrono, st.integers(3, 1000)),
        "unit_forget_bias": st.booleans(),
        "kernel_regularizer": regularizers,
        "recurrent_regularizer": regularizers,
        "bias_regularizer": regularizers,
        "activity_regularizer": regularizers,
        "kernel_constraint": constraints,
        "recurrent_constraint": constraints,
        "bias_constraint": constraints,
        "dropout": rates,
        "recurrent_dropout": rates,
        "implementation": st.sampled_from([1, 2]),
        "return_sequences": st.booleans(),
        "go_backwards": st.booleans(),
        "unroll": st.booleans() | st.integers(1, 8),
        "zero_output_for_mask": st.booleans(),
        "dtype": st.none() | dtypes,
        "param_dtype": dtypes,
        "keep_order": st.booleans(),
        "remat_every": st.none() | st.integers(1, 50),
        "backend": st.sampled_from(["auto", "xla"]),
        "variant": variants(),
    }
    return st.builds(
        LSTM, **{k: v for k, v in fields.items() if k not in fixed}, **{k: st.just(v) for k, v in fixed.items()}
    )


@st.composite
def bidirectionals(draw, return_sequences):
    fixed = {"return_sequences": return_sequences, "go_backwards": False}
    forward = draw(lstms(**fixed))
    if draw(st.booleans()):
        return Bidirectional(forward, merge_mode=draw(st.sampled_from(["concat", "sum", "mul", "ave"])))
    return Bidirectional(forward, draw(lstms(**fixed | {"go_backwards": True})))


def layers(return_sequences):
    return lstms(return_sequences=return_sequences) | bidirectionals(return_sequences)


@st.composite
def stacks(draw):
    below = draw(st.lists(layers(True), max_size=2))
    if draw(st.booleans()) and below:
        below = [Stack(tuple(below), dropout=draw(rates))]
    return Stack((*below, draw(layers(draw(st.booleans())))), dropout=draw(rates))


specs = lstms() | bidirectionals(True) | stacks()


def toml(value):
    """Write plain data as a TOML value; it holds no None."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(v)}" for key, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    assert isinstance(value, (int, float, str))
    return json.dumps(value) if isinstance(value, str) else repr(value)


@given(specs)
def test_round_trips(spec):
    data = spec.to_dict()
    for read in (
        data,
        json.loads(json.dumps(data)),
        tomllib.loads(f"spec = {toml(data)}")["spec"],
    ):
        back = jlstm.from_dict(read)
        assert back == spec
        assert hash(back) == hash(spec)
        assert type(spec).from_dict(read) == spec
        assert back.to_dict() == data
    assert eval(repr(spec), NAMESPACE) == spec


def test_every_class_of_an_option_round_trips():
    needs = {"Chrono": {"max_steps": 9}, "TorchUniform": {"units": 4}}
    for name, cls in named.CLASSES.items():
        value = cls(**needs.get(name, {}))
        field = next(
            field
            for field, classes in (
                ("bias_initializer", named.initializers.CLASSES),
                ("activation", (named.HardSigmoid, named.LeakyReLU, named.ELU)),
                ("activation", (named.Affine, named.ScaledTanh, named.ThresholdedReLU)),
                ("kernel_regularizer", (named.L1, named.L2, named.L1L2, named.OrthogonalRegularizer)),
                ("kernel_constraint", (named.MaxNorm, named.NonNeg, named.UnitNorm, named.MinMaxNorm)),
            )
            if cls in classes
        )
        layer = LSTM(2, **{field: value})
        assert jlstm.from_dict(json.loads(json.dumps(layer.to_dict()))) == layer
        assert eval(repr(layer), NAMESPACE) == layer
        assert name in NAMESPACE  # or repr would not evaluate


def test_to_dict_by_hand():
    assert LSTM(3, variant=Variant(peephole=True), kernel_regularizer=jlstm.L2(0.5)).to_dict() == {
        "name": "LSTM",
        "units": 3,
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "use_bias": True,
        "kernel_initializer": "glorot_uniform",
        "recurrent_initializer": "orthogonal",
        "bias_initializer": "zeros",
        "unit_forget_bias": True,
        "kernel_regularizer": {"name": "L2", "l2": 0.5},
        "dropout": 0.0,
        "recurrent_dropout": 0.0,
        "implementation": 2,
        "return_sequences": False,
        "go_backwards": False,
        "unroll": False,
        "zero_output_for_mask": False,
        "param_dtype": "float32",
        "keep_order": False,
        "backend": "auto",
        "variant": {"name": "Variant", "peephole": True, "forget_gate": True},
    }
    assert Bidirectional(LSTM(2), merge_mode=None).to_dict()["merge_mode"] == "none"


def test_defaults_are_those_of_keras():
    layer = LSTM(7)
    expected = {
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "use_bias": True,
        "kernel_initializer": "glorot_uniform",
        "recurrent_initializer": "orthogonal",
        "bias_initializer": "zeros",
        "unit_forget_bias": True,
        "dropout": 0.0,
        "recurrent_dropout": 0.0,
        "implementation": 2,
        "return_sequences": False,
        "go_backwards": False,
        "unroll": False,
        "zero_output_for_mask": False,
        "dtype": None,
        "variant": Variant(),
    }
    for name, value in expected.items():
        assert getattr(layer, name) == value
    for name in ("kernel", "recurrent", "bias", "activity"):
        assert getattr(layer, f"{name}_regularizer") is None
        if name != "activity":
            assert getattr(layer, f"{name}_constraint") is None


def test_a_dict_written_by_hand_may_leave_out_defaults():
    assert jlstm.from_dict({"name": "LSTM", "units": 3}) == LSTM(3)
    assert LSTM.from_dict({"units": 3}) == LSTM(3)
    assert Bidirectional.from_dict({"forward": {"name": "LSTM", "units": 3}}) == Bidirectional(LSTM(3))
    assert Stack.from_dict({"layers": [{"name": "LSTM", "units": 3}]}) == Stack((LSTM(3),))


@pytest.mark.parametrize("field", ["activation", "kernel_initializer", "bias_regularizer", "recurrent_constraint"])
def test_to_dict_names_the_field_that_holds_a_bare_callable(field):
    with pytest.raises(TypeError, match=rf"^LSTM\.{field} must be a name or a value .*, got <function"):
        LSTM(2, **{field: lambda *arguments: None}).to_dict()
    with pytest.raises(TypeError, match=r"^Variant\.output_activation must be a name or a value .*, got "):
        LSTM(2, variant=Variant(output_activation=jnp.sin)).to_dict()


# --- values ---------------------------------------------------------------------------------------------------------


def test_specs_compare_by_value_and_hash():
    pairs = [
        (LSTM(3), LSTM(units=3)),
        (LSTM(3, dtype=jnp.bfloat16), LSTM(3, dtype="bfloat16")),
        (LSTM(3, param_dtype=np.float16), LSTM(3, param_dtype="float16")),
        (Bidirectional(LSTM(3)), Bidirectional(LSTM(3), LSTM(3, go_backwards=True))),
        (Stack([LSTM(3)]), Stack((LSTM(3),))),
        (Variant(), Variant(forget_gate=True)),
        (LSTM(3, activation=jnp.tanh), LSTM(3, activation=jnp.tanh)),
    ]
    for a, b in pairs:
        assert a == b
        assert hash(a) == hash(b)
    different = [
        LSTM(3),
        LSTM(4),
        LSTM(3, return_sequences=True),
        LSTM(3, variant=Variant(peephole=True)),
        Bidirectional(LSTM(3)),
        Bidirectional(LSTM(3), merge_mode=None),
        Stack((LSTM(3),)),
        Stack((LSTM(3),), dropout=0.5),
    ]
    assert len(set(different)) == len(different)


def test_specs_are_frozen():
    for spec, field in ((LSTM(3), "units"), (Bidirectional(LSTM(3)), "merge_mode"), (Stack((LSTM(3),)), "layers")):
        with pytest.raises(AttributeError):
            setattr(spec, field, 1)


def test_options_are_keywords_except_the_first():
    with pytest.raises(TypeError):
        LSTM(3, "tanh")
    with pytest.raises(TypeError):
        Stack((LSTM(3),), 0.5)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (LSTM(3), "LSTM(3)"),
        (LSTM(units=3, return_sequences=True), "LSTM(3, return_sequences=True)"),
        (LSTM(3, activation=None), "LSTM(3, activation='linear')"),
        (LSTM(3, unroll=1), "LSTM(3)"),  # one step at a time is not to unroll
        (LSTM(3, unroll=True), "LSTM(3, unroll=True)"),
        (LSTM(3, variant=Variant(projection=2)), "LSTM(3, variant=Variant(projection=2))"),
        (
            Stack((Bidirectional(LSTM(3, return_sequences=True), merge_mode="sum"), LSTM(2)), dropout=0.1),
            "Stack((Bidirectional(LSTM(3, return_sequences=True), LSTM(3, return_sequences=True, go_backwards=True), "
            "merge_mode='sum'), LSTM(2)), dropout=0.1)",
        ),
    ],
)
def test_repr_is_the_call_that_makes_it(spec, text):
    assert repr(spec) == text
    assert eval(text, NAMESPACE) == spec


def test_a_function_is_written_by_its_name():
    assert repr(LSTM(3, activation=jnp.tanh)) == "LSTM(3, activation=tanh)"
    assert repr(LSTM(3, activation=lambda x: x)) == "LSTM(3, activation=<lambda>)"
    assert repr(LSTM(3, activation=partial(abs))) == "LSTM(3, activation=functools.partial(<built-in function abs>))"


def test_a_spec_is_a_static_argument_of_jit():
    traces = []

    def f(layer, x):
        traces.append(layer)
        return layer.apply(layer.init(jax.random.key(0), 2), layer.initial_state(1), x)[1]

    jitted = jax.jit(f, static_argnums=0)
    jitted(LSTM(3), jnp.ones((1, 2, 2)))
    jitted(LSTM(units=3), jnp.ones((1, 2, 2)))  # another object, the same value
    assert len(traces) == 1
    jitted(LSTM(4), jnp.ones((1, 2, 2)))
    assert len(traces) == 2
