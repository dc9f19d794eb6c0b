"""Wrong calls: each raises at the public edge, while tracing, with the message of one format."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlstm
from jlstm import (
    LSTM,
    Bidirectional,
    Chrono,
    Directions,
    DropoutMasks,
    LSTMParams,
    LSTMState,
    Stack,
    Variant,
    lstm_cell,
    lstm_scan,
)

B, T, D, N = 2, 4, 3, 2
KEY = jax.random.key(0)

LAYER = LSTM(N, return_sequences=True)
PARAMS = LSTMParams(
    kernel=np.zeros((D, 4 * N), "float32"),
    recurrent_kernel=np.zeros((N, 4 * N), "float32"),
    bias=np.zeros(4 * N, "float32"),
)
STATE = LSTMState(h=np.zeros((B, N), "float32"), c=np.zeros((B, N), "float32"))
LONE = LSTMState(h=np.zeros(N, "float32"), c=np.zeros(N, "float32"))
X = np.zeros((B, T, D), "float32")
MASK = np.ones((B, T), bool)
LENGTHS = np.full(B, T)
BIDIRECTIONAL = Bidirectional(LAYER)
STACK = Stack((LAYER, LSTM(N)))


def without(params, **parts):
    return LSTMParams(**{**vars(params), **parts})


def apply(layer=LAYER, params=PARAMS, state=STATE, x=X, **options):
    return lambda: layer.apply(params, state, x, **options)


def step(layer=LAYER, params=PARAMS, state=STATE, x_t=X[:, 0], **options):
    return lambda: layer.step(params, state, x_t, **options)


def scan(params=PARAMS, state=LONE, xs=X[0], **options):
    return lambda: lstm_scan(params, state, xs, **options)


def cell(params=PARAMS, state=LONE, x=X[0, 0], **options):
    return lambda: lstm_cell(params, state, x, **options)


def made(cls, *arguments, **options):
    return lambda: cls(*arguments, **options)


def read(data, cls=jlstm):
    return lambda: cls.from_dict(data)


def order_lost():
    """A stack whose nested lower stack returns its outputs in the order of processing."""
    return Stack((Stack((LSTM(N, go_backwards=True, return_sequences=True),)), LSTM(N)))


# every message: `<name> must ..., got ...`
FORMAT = re.compile(r"^[\w.\[\] ']+ must .+, got .+", re.DOTALL)

# name of the case: (call, type, start of the message up to `, got`, what came)
WRONG = {
    # --- x
    "x of rank 2": (apply(x=X[0]), ValueError, "x must have shape [B, T, 3]", "[4, 3]"),
    "x of rank 4": (apply(x=X[None]), ValueError, "x must have shape [B, T, 3]", "[1, 2, 4, 3]"),
    "x too wide": (
        apply(x=np.zeros((B, T, D + 1), "float32")),
        ValueError,
        "x must have shape [B, T, 3]",
        "[2, 4, 4]",
    ),
    "x of integers": (apply(x=X.astype("int32")), TypeError, "x must be a real floating array", "int32"),
    "x complex": (apply(x=X.astype("complex64")), TypeError, "x must be a real floating array", "complex64"),
    "x bool": (apply(x=X.astype(bool)), TypeError, "x must be a real floating array", "bool"),
    "x a list": (apply(x=[[[0.0]]]), TypeError, "x must be a real floating array of shape [B, T, 3]", "[[[0.0]]]"),
    "x None": (apply(x=None), TypeError, "x must be a real floating array of shape [B, T, 3]", "None"),
    "x of another batch": (apply(x=X[:1]), ValueError, "state.h must have shape [1, 2]", "[2, 2]"),
    # --- mask and lengths
    "mask of floats": (apply(mask=MASK.astype("float32")), TypeError, "mask must be a bool array", "float32"),
    "mask of integers": (apply(mask=MASK.astype("int32")), TypeError, "mask must be a bool array", "int32"),
    "mask a list": (apply(mask=MASK.tolist()), TypeError, "mask must be a bool array of shape [2, 4]", "list"),
    "mask of rank 1": (apply(mask=MASK[0]), ValueError, "mask must have shape [2, 4]", "[4]"),
    "mask of one row": (apply(mask=MASK[:1]), ValueError, "mask must have shape [2, 4]", "[1, 4]"),
    "mask of rank 3": (apply(mask=MASK[..., None]), ValueError, "mask must have shape [2, 4]", "[2, 4, 1]"),
    "mask and lengths": (
        apply(mask=MASK, lengths=LENGTHS),
        ValueError,
        "mask must be None together with lengths",
        "both",
    ),
    "lengths of floats": (apply(lengths=LENGTHS * 1.0), TypeError, "lengths must be an integer array", "float64"),
    "lengths bool": (apply(lengths=LENGTHS > 0), TypeError, "lengths must be an integer array", "bool"),
    "lengths a list": (
        apply(lengths=[4, 4]),
        TypeError,
        "lengths must be an integer array of shape [2]",
        "[4, 4]",
    ),
    "lengths of rank 2": (apply(lengths=LENGTHS[:, None]), ValueError, "lengths must have shape [2]", "[2, 1]"),
    "lengths too few": (apply(lengths=LENGTHS[:1]), ValueError, "lengths must have shape [2]", "[1]"),
    "lengths negative": (apply(lengths=np.array([-1, 4])), ValueError, "lengths must be in [0, 4]", "-1 to 4"),
    "lengths too long": (apply(lengths=np.array([0, 5])), ValueError, "lengths must be in [0, 4]", "0 to 5"),
    # --- reset
    "reset of floats": (apply(reset=MASK * 1.0), TypeError, "reset must be a bool array", "float64"),
    "reset of rank 1": (apply(reset=MASK[0]), ValueError, "reset must have shape [2, 4]", "[4]"),
    "reset backwards": (
        apply(LSTM(N, go_backwards=True), reset=MASK),
        ValueError,
        "reset must be None with go_backwards=True",
        "",
    ),
    "reset_state alone": (apply(reset_state=STATE), ValueError, "reset_state must be None without reset", "a state"),
    "reset_state a tuple": (
        apply(reset=MASK, reset_state=(STATE.h, STATE.c)),
        TypeError,
        "reset_state must be LSTMState",
        "tuple",
    ),
    "reset_state of one row": (
        apply(reset=MASK, reset_state=LONE),
        ValueError,
        "reset_state.h must have shape [2, 2]",
        "[2]",
    ),
    # --- params and state
    "params a tuple": (apply(params=(1, 2)), TypeError, "params must be LSTMParams", "(1, 2)"),
    "params of a Bidirectional": (
        apply(params=Directions(1, 2)),
        TypeError,
        "params must be LSTMParams",
        "Directions(forward=1, backward=2)",
    ),
    "no bias": (
        apply(params=without(PARAMS, bias=None)),
        TypeError,
        "params.bias must be a real floating array of shape [8]",
        "None",
    ),
    "a bias too many": (
        apply(LSTM(N, use_bias=False)),
        ValueError,
        "params.bias must be None without use_bias=True",
        "float32[8]",
    ),
    "no peephole": (
        apply(LSTM(N, variant=Variant(peephole=True))),
        TypeError,
        "params.peephole must be a real floating array of shape [3, 2]",
        "None",
    ),
    "a peephole too many": (
        apply(params=without(PARAMS, peephole=np.zeros((3, N), "float32"))),
        ValueError,
        "params.peephole must be None without Variant(peephole=True)",
        "float32[3, 2]",
    ),
    "no projection": (
        apply(
            LSTM(N, variant=Variant(projection=1)),
            without(PARAMS, recurrent_kernel=np.zeros((1, 8), "float32")),
            LSTMState(h=STATE.h[:, :1], c=STATE.c),
        ),
        TypeError,
        "params.projection must be a real floating array of shape [2, 1]",
        "None",
    ),
    "a projection too many": (
        apply(params=without(PARAMS, projection=np.zeros((N, 1), "float32"))),
        ValueError,
        "params.projection must be None without Variant(projection=P)",
        "float32[2, 1]",
    ),
    "kernel of other units": (apply(LSTM(3)), ValueError, "params.kernel must have shape [D, 12]", "[3, 8]"),
    "recurrent_kernel transposed": (
        apply(params=without(PARAMS, recurrent_kernel=PARAMS.recurrent_kernel.T)),
        ValueError,
        "params.recurrent_kernel must have shape [2, 8]",
        "[8, 2]",
    ),
    "bias of two": (
        apply(params=without(PARAMS, bias=np.zeros((2, 8), "float32"))),
        ValueError,
        "params.bias must have shape [8]",
        "[2, 8]",
    ),
    "kernel of integers": (
        apply(params=without(PARAMS, kernel=PARAMS.kernel.astype("int32"))),
        TypeError,
        "params.kernel must be a real floating array",
        "int32",
    ),
    "state a tuple": (apply(state=(1, 2)), TypeError, "state must be LSTMState", "(1, 2)"),
    "state None": (apply(state=None), TypeError, "state must be LSTMState", "None"),
    "state of one example": (apply(state=LONE), ValueError, "state.h must have shape [2, 2]", "[2]"),
    "h too wide": (
        apply(state=LSTMState(h=np.zeros((B, 3), "float32"), c=STATE.c)),
        ValueError,
        "state.h must have shape [2, 2]",
        "[2, 3]",
    ),
    "c too wide": (
        apply(state=LSTMState(h=STATE.h, c=np.zeros((B, 3), "float32"))),
        ValueError,
        "state.c must have shape [2, 2]",
        "[2, 3]",
    ),
    "state of integers": (
        apply(state=LSTMState(h=STATE.h, c=STATE.c.astype(int))),
        TypeError,
        "state.c must be a real floating array",
        "int64",
    ),
    # --- key
    "key a number": (apply(key=0), TypeError, "key must be one jax.random.key or None", "0"),
    "key a batch": (
        apply(key=jax.random.split(KEY)),
        TypeError,
        "key must be one jax.random.key or None",
        "key<fry>[2]",
    ),
    "key of floats": (
        apply(key=np.zeros(2, "float32")),
        TypeError,
        "key must be one jax.random.key or None",
        "float32[2]",
    ),
    "key True": (
        apply(BIDIRECTIONAL, Directions(PARAMS, PARAMS), Directions(STATE, STATE), key=True),
        TypeError,
        "key must be one jax.random.key or None",
        "True",
    ),
    "init without a key": (lambda: LAYER.init(0, 3), TypeError, "key must be one jax.random.key", "0"),
    "init of a Stack without a key": (
        lambda: STACK.init(0, 3),
        TypeError,
        "key must be one jax.random.key",
        "0",
    ),
    # --- step
    "step backwards": (
        step(LSTM(N, go_backwards=True)),
        ValueError,
        "go_backwards must be False for step",
        "True",
    ),
    # --- options of another kind, and functions whose result has another shape
    "a regularizer for an activation": (
        made(LSTM, N, activation=jlstm.L2()),
        TypeError,
        "activation must be a name, one of HardSigmoid",
        "L2(l2=0.01)",
    ),
    "a regularizer for a constraint": (
        made(LSTM, N, kernel_constraint=jlstm.L2()),
        TypeError,
        "kernel_constraint must be a name, one of MaxNorm",
        "L2(l2=0.01)",
    ),
    "an activation that reduces": (
        apply(LSTM(N, activation=jnp.sum)),
        ValueError,
        "activation must return an array of shape",
        "[]",
    ),
    "a constraint that reduces": (
        lambda: LSTM(N, kernel_constraint=jnp.sum).constrain(PARAMS),
        ValueError,
        "kernel_constraint must return an array of shape",
        "[]",
    ),
    "a regularizer that does not reduce": (
        lambda: LSTM(N, kernel_regularizer=jnp.abs).penalty(PARAMS),
        ValueError,
        "kernel_regularizer must return an array of shape []",
        "",
    ),
    "params of another layer to penalty": (
        lambda: LSTM(N + 1, kernel_regularizer="l2").penalty(PARAMS),
        ValueError,
        "params.kernel must have shape",
        "",
    ),
    "params of another layer to constrain": (
        lambda: LSTM(N + 1, kernel_constraint="non_neg").constrain(PARAMS),
        ValueError,
        "params.kernel must have shape",
        "",
    ),
    "a negative norm": (made(jlstm.MaxNorm, -1.0), ValueError, "MaxNorm.max_value must be a finite number", "-1.0"),
    "a negative factor": (made(jlstm.L2, -1.0), ValueError, "L2.l2 must be a finite number of at least 0", "-1.0"),
    "an axis that is none": (made(jlstm.MaxNorm, 1.0, "a"), TypeError, "MaxNorm.axis must be an integer or", "'a'"),
    "a dtype of eight bits": (
        made(LSTM, N, dtype="float8_e4m3fn"),
        TypeError,
        "dtype must be one of the dtypes float16, bfloat16, float32, float64",
        "'float8_e4m3fn'",
    ),
    "no key for init": (lambda: LAYER.init(None, 2), TypeError, "key must be one jax.random.key", "None"),
    "a nested layer that leaves its outputs turned round": (
        lambda: order_lost().apply(
            order_lost().init(jax.random.key(0), D), order_lost().initial_state(B), X, mask=MASK
        ),
        ValueError,
        "layers[0].keep_order must be True",
        "False",
    ),
    "a spec that is no mapping": (read("LSTM"), TypeError, "a spec must be a mapping with an entry 'name'", "'LSTM'"),
    "step of a Bidirectional": (
        step(BIDIRECTIONAL),
        ValueError,
        "step must be of a layer that goes forwards only",
        "Bidirectional",
    ),
    "step over a sequence": (step(x_t=X), ValueError, "x_t must have shape [B, 3]", "[2, 4, 3]"),
    "step of integers": (step(x_t=X[:, 0].astype(int)), TypeError, "x_t must be a real floating array", "int64"),
    "step with a reset of a sequence": (step(reset=MASK), ValueError, "reset must have shape [2]", "[2, 4]"),
    "step with a reset of floats": (step(reset=MASK[:, 0] * 1.0), TypeError, "reset must be a bool array", "float64"),
    "step with another state": (step(state=LONE), ValueError, "state.h must have shape [2, 2]", "[2]"),
    # --- init and initial_state
    "input_size 0": (lambda: LAYER.init(KEY, 0), ValueError, "input_size must be a positive integer", "0"),
    "input_size 2.0": (lambda: LAYER.init(KEY, 2.0), TypeError, "input_size must be a positive integer", "2.0"),
    "input_size True": (lambda: LAYER.init(KEY, True), TypeError, "input_size must be a positive integer", "True"),
    "batch_size negative": (
        lambda: LAYER.initial_state(-1),
        ValueError,
        "batch_size must be an integer of at least 0",
        "-1",
    ),
    "batch_size 2.0": (
        lambda: LAYER.initial_state(2.0),
        TypeError,
        "batch_size must be an integer of at least 0",
        "2.0",
    ),
    "state dtype of integers": (
        lambda: LAYER.initial_state(2, "int32"),
        TypeError,
        "dtype must be one of the dtypes float16, bfloat16, float32, float64",
        "'int32'",
    ),
    "state of float64 without x64": (
        lambda: LAYER.initial_state(2, "float64"),
        ValueError,
        "dtype must be at most 32 bits wide unless jax_enable_x64 is on",
        "float64",
    ),
    "params of float64 without x64": (
        lambda: LSTM(2, param_dtype="float64").init(KEY, 3),
        ValueError,
        "param_dtype must be at most 32 bits wide unless jax_enable_x64 is on",
        "float64",
    ),
    "computation in float64 without x64": (
        apply(LSTM(N, dtype="float64")),
        ValueError,
        "dtype must be at most 32 bits wide unless jax_enable_x64 is on",
        "float64",
    ),
    "an initializer of another shape": (
        lambda: LSTM(2, kernel_initializer=lambda key, shape, dtype: jnp.zeros(3, dtype)).init(KEY, 3),
        ValueError,
        "initialised params.kernel must have shape [3, 8]",
        "[3]",
    ),
    # --- fields of LSTM
    "units 0": (made(LSTM, 0), ValueError, "units must be a positive integer", "0"),
    "units -3": (made(LSTM, -3), ValueError, "units must be a positive integer", "-3"),
    "units True": (made(LSTM, True), TypeError, "units must be a positive integer", "True"),
    "units 2.5": (made(LSTM, 2.5), TypeError, "units must be a positive integer", "2.5"),
    "units text": (made(LSTM, "3"), TypeError, "units must be a positive integer", "'3'"),
    "activation unknown": (
        made(LSTM, 2, activation="tahn"),
        ValueError,
        "activation must be one of 'tanh', ",
        "'tahn'",
    ),
    "activation a number": (made(LSTM, 2, activation=3), TypeError, "activation must be a name or a callable", "3"),
    "activation a class": (
        made(LSTM, 2, activation=jlstm.HardSigmoid),
        TypeError,
        "activation must be a name or a callable",
        "the class HardSigmoid: write HardSigmoid(...)",
    ),
    "recurrent_activation unknown": (
        made(LSTM, 2, recurrent_activation="Sigmoid"),
        ValueError,
        "recurrent_activation must be one of 'tanh', ",
        "'Sigmoid'",
    ),
    "kernel_initializer unknown": (
        made(LSTM, 2, kernel_initializer="xavier"),
        ValueError,
        "kernel_initializer must be one of 'zeros', ",
        "'xavier'",
    ),
    "bias_initializer a class": (
        made(LSTM, 2, bias_initializer=Chrono),
        TypeError,
        "bias_initializer must be a name or a callable",
        "the class Chrono: write Chrono(...)",
    ),
    "recurrent_initializer a number": (
        made(LSTM, 2, recurrent_initializer=0),
        TypeError,
        "recurrent_initializer must be a name or a callable",
        "0",
    ),
    "kernel_regularizer unknown": (
        made(LSTM, 2, kernel_regularizer="l3"),
        ValueError,
        "kernel_regularizer must be one of 'l1', ",
        "'l3'",
    ),
    "activity_regularizer a number": (
        made(LSTM, 2, activity_regularizer=0.1),
        TypeError,
        "activity_regularizer must be a name or a callable",
        "0.1",
    ),
    "bias_constraint unknown": (
        made(LSTM, 2, bias_constraint="maxnorm"),
        ValueError,
        "bias_constraint must be one of 'max_norm', ",
        "'maxnorm'",
    ),
    "recurrent_constraint a class": (
        made(LSTM, 2, recurrent_constraint=jlstm.MaxNorm),
        TypeError,
        "recurrent_constraint must be a name or a callable",
        "the class MaxNorm: write MaxNorm(...)",
    ),
    **{
        f"{name} {value!r}": (made(LSTM, 2, **{name: value}), TypeError, f"{name} must be True or False", repr(value))
        for name, value in (
            ("use_bias", 1),
            ("unit_forget_bias", None),
            ("return_sequences", "yes"),
            ("go_backwards", 0),
            ("zero_output_for_mask", 1.0),
            ("keep_order", 1),
        )
    },
    "dropout 1.0": (made(LSTM, 2, dropout=1.0), ValueError, "dropout must be a number in [0, 1)", "1.0"),
    "dropout 1": (made(LSTM, 2, dropout=1), ValueError, "dropout must be a number in [0, 1)", "1"),
    "dropout -0.1": (made(LSTM, 2, dropout=-0.1), ValueError, "dropout must be a number in [0, 1)", "-0.1"),
    "dropout nan": (made(LSTM, 2, dropout=float("nan")), ValueError, "dropout must be a number in [0, 1)", "nan"),
    "dropout True": (made(LSTM, 2, dropout=True), TypeError, "dropout must be a number in [0, 1)", "True"),
    "recurrent_dropout text": (
        made(LSTM, 2, recurrent_dropout="0.5"),
        TypeError,
        "recurrent_dropout must be a number in [0, 1)",
        "'0.5'",
    ),
    "recurrent_dropout 1.0": (
        made(LSTM, 2, recurrent_dropout=1.0),
        ValueError,
        "recurrent_dropout must be a number in [0, 1)",
        "1.0",
    ),
    "implementation 0": (made(LSTM, 2, implementation=0), ValueError, "implementation must be one of 1, 2", "0"),
    "implementation True": (
        made(LSTM, 2, implementation=True),
        ValueError,
        "implementation must be one of 1, 2",
        "True",
    ),
    "unroll 0": (made(LSTM, 2, unroll=0), ValueError, "unroll must be a positive integer", "0"),
    "unroll 1.5": (made(LSTM, 2, unroll=1.5), TypeError, "unroll must be a positive integer", "1.5"),
    "remat_every 0": (made(LSTM, 2, remat_every=0), ValueError, "remat_every must be a positive integer", "0"),
    "remat_every True": (made(LSTM, 2, remat_every=True), TypeError, "remat_every must be a positive integer", "True"),
    "dtype int32": (
        made(LSTM, 2, dtype="int32"),
        TypeError,
        "dtype must be one of the dtypes float16, bfloat16, float32, float64",
        "'int32'",
    ),
    "dtype complex64": (
        made(LSTM, 2, dtype="complex64"),
        TypeError,
        "dtype must be one of the dtypes float16, bfloat16, float32, float64",
        "'complex64'",
    ),
    "param_dtype unknown": (
        made(LSTM, 2, param_dtype="floaty"),
        TypeError,
        "param_dtype must be one of the dtypes float16, bfloat16, float32, float64",
        "'floaty'",
    ),
    "param_dtype None": (
        made(LSTM, 2, param_dtype=None),
        TypeError,
        "param_dtype must be one of the dtypes float16, bfloat16, float32, float64",
        "None",
    ),
    "backend unknown": (
        made(LSTM, 2, backend="gpu"),
        ValueError,
        "backend must be one of 'auto', 'cpu', 'xla'",
        "'gpu'",
    ),
    "variant a dict": (made(LSTM, 2, variant={}), TypeError, "variant must be Variant", "{}"),
    "variant a class": (made(LSTM, 2, variant=Variant), TypeError, "variant must be Variant", ""),
    # --- Variant
    "peephole 1": (made(Variant, peephole=1), TypeError, "variant.peephole must be True or False", "1"),
    "coupled True": (
        made(Variant, coupled=True),
        ValueError,
        "variant.coupled must be one of None, 'input', 'forget'",
        "True",
    ),
    "coupled without a forget gate": (
        made(Variant, coupled="input", forget_gate=False),
        ValueError,
        "variant.coupled must be None without a forget gate",
        "'input'",
    ),
    "projection 0": (made(Variant, projection=0), ValueError, "variant.projection must be a positive integer", "0"),
    "projection True": (
        made(Variant, projection=True),
        TypeError,
        "variant.projection must be a positive integer",
        "True",
    ),
    "preact_clip 0": (
        made(Variant, preact_clip=0),
        ValueError,
        "variant.preact_clip must be a finite number above 0",
        "0",
    ),
    "preact_clip inf": (
        made(Variant, preact_clip=float("inf")),
        ValueError,
        "variant.preact_clip must be a finite number above 0",
        "inf",
    ),
    "output_activation unknown": (
        made(Variant, output_activation="than"),
        ValueError,
        "variant.output_activation must be one of 'tanh', ",
        "'than'",
    ),
    "forget_gate None": (
        made(Variant, forget_gate=None),
        TypeError,
        "variant.forget_gate must be True or False",
        "None",
    ),
    # --- values of options
    "Chrono(2)": (made(Chrono, 2), ValueError, "Chrono.max_steps must be at least 3", "2"),
    "Chrono(2.5)": (made(Chrono, 2.5), TypeError, "Chrono.max_steps must be a positive integer", "2.5"),
    "TorchUniform(0)": (made(jlstm.TorchUniform, 0), ValueError, "TorchUniform.units must be a positive integer", "0"),
    "VarianceScaling(0)": (
        made(jlstm.VarianceScaling, 0.0),
        ValueError,
        "VarianceScaling.scale must be a number above 0",
        "0.0",
    ),
    "VarianceScaling mode": (
        made(jlstm.VarianceScaling, mode="fan"),
        ValueError,
        "VarianceScaling.mode must be one of 'fan_in', 'fan_out', 'fan_avg'",
        "'fan'",
    ),
    "L2 of text": (made(jlstm.L2, "0.1"), TypeError, "L2.l2 must be a finite number", "'0.1'"),
    "L1 of nan": (made(jlstm.L1, float("nan")), ValueError, "L1.l1 must be a finite number", "nan"),
    "MaxNorm of None": (made(jlstm.MaxNorm, None), TypeError, "MaxNorm.max_value must be a finite number", "None"),
    "orthogonal mode": (
        made(jlstm.OrthogonalRegularizer, mode="row"),
        ValueError,
        "OrthogonalRegularizer.mode must be one of 'rows', 'columns'",
        "'row'",
    ),
    "identity of a vector": (
        lambda: LSTM(2, bias_initializer="identity").init(KEY, 3),
        ValueError,
        "Identity must initialise a matrix",
        "shape [2]",
    ),
    "orthogonal of a vector": (
        lambda: LSTM(2, bias_initializer="orthogonal").init(KEY, 3),
        ValueError,
        "Orthogonal must initialise a matrix",
        "shape [2]",
    ),
    "chrono of a matrix": (
        lambda: LSTM(2, kernel_initializer=Chrono(9)).init(KEY, 3),
        ValueError,
        "Chrono must initialise a bias [4N]",
        "shape [3, 8]",
    ),
    "orthogonal regularizer of a vector": (
        lambda: LSTM(N, bias_regularizer="orthogonal_regularizer").penalty(PARAMS),
        ValueError,
        "OrthogonalRegularizer must be given a matrix",
        "shape [8]",
    ),
    # --- the other methods
    "penalty of a state": (lambda: LAYER.penalty(STATE), TypeError, "params must be LSTMParams", ""),
    "constrain a tuple": (lambda: LAYER.constrain((1, 2)), TypeError, "params must be LSTMParams", "(1, 2)"),
    "activity_penalty of rank 1": (
        lambda: LAYER.activity_penalty(np.zeros(N, "float32")),
        ValueError,
        "y must have shape [B, 2]",
        "[2]",
    ),
    # --- the functions below the layers
    "cell: x in a batch": (cell(x=X[0]), ValueError, "x must have shape [3]", "[4, 3]"),
    "cell: x of integers": (cell(x=np.zeros(D, int)), TypeError, "x must be a real floating array", "int64"),
    "cell: state in a batch": (cell(state=STATE), ValueError, "state.h must have shape [2]", "[2, 2]"),
    "cell: kernel not of 4N": (
        cell(without(PARAMS, kernel=np.zeros((D, 7), "float32"))),
        ValueError,
        "params.kernel must have shape [D, 4N]",
        "[3, 7]",
    ),
    "cell: activation unknown": (cell(activation="tan"), ValueError, "activation must be one of 'tanh', ", "'tan'"),
    "cell: variant a name": (cell(variant="peephole"), TypeError, "variant must be Variant", "'peephole'"),
    "cell: dropout_masks an array": (
        cell(dropout_masks=np.ones(D, "float32")),
        TypeError,
        "dropout_masks must be DropoutMasks",
        "float32[3]",
    ),
    "cell: input mask of the wrong width": (
        cell(dropout_masks=DropoutMasks(input=np.ones(2, "float32"))),
        ValueError,
        "dropout_masks.input must have shape [3]",
        "[2]",
    ),
    "cell: recurrent mask of one row": (
        cell(dropout_masks=DropoutMasks(recurrent=np.ones(N, "float32"))),
        ValueError,
        "dropout_masks.recurrent must have shape [4, 2]",
        "[2]",
    ),
    "scan: xs of one step": (scan(xs=X[0, 0]), ValueError, "xs must have shape [T, 3]", "[3]"),
    "scan: xs in a batch": (scan(xs=X), ValueError, "xs must have shape [T, 3]", "[2, 4, 3]"),
    "scan: mask of another length": (scan(mask=np.ones(3, bool)), ValueError, "mask must have shape [4]", "[3]"),
    "scan: mask of floats": (scan(mask=np.ones(4)), TypeError, "mask must be a bool array", "float64"),
    "scan: reset in reverse": (
        scan(reset=MASK[0], reverse=True),
        ValueError,
        "reset must be None with reverse=True (an episode has no meaning backwards)",
        "an array",
    ),
    "scan: reset_state alone": (
        scan(reset_state=LONE),
        ValueError,
        "reset_state must be None without reset",
        "a state",
    ),
    "scan: reverse 1": (scan(reverse=1), TypeError, "reverse must be True or False", "1"),
    "scan: unroll 0": (scan(unroll=0), ValueError, "unroll must be a positive integer", "0"),
    "scan: remat_every 0": (scan(remat_every=0), ValueError, "remat_every must be a positive integer", "0"),
    # --- Bidirectional
    "Bidirectional of a Stack": (made(Bidirectional, STACK), TypeError, "forward must be LSTM", "Stack"),
    "Bidirectional of a class": (
        made(Bidirectional, LSTM),
        TypeError,
        "forward must be LSTM",
        "<class 'jlstm.layers.LSTM'>",
    ),
    "Bidirectional merge": (
        made(Bidirectional, LAYER, merge_mode="max"),
        ValueError,
        "merge_mode must be one of 'concat', 'sum', 'mul', 'ave', None",
        "'max'",
    ),
    "two forward layers": (
        made(Bidirectional, LAYER, LAYER),
        ValueError,
        "go_backwards must be False for forward and True for backward",
        "False and False",
    ),
    "a backward layer forwards": (
        made(Bidirectional, LSTM(N, go_backwards=True)),
        ValueError,
        "go_backwards must be False for forward and True for backward",
        "True and True",
    ),
    "two ways to return": (
        made(Bidirectional, LAYER, LSTM(N, go_backwards=True)),
        ValueError,
        "return_sequences must be the same for forward and backward",
        "True and False",
    ),
    "two widths to sum": (
        made(Bidirectional, LSTM(2), LSTM(3, go_backwards=True), merge_mode="sum"),
        ValueError,
        "merge_mode 'sum' must have two outputs of one width",
        "(2, 3)",
    ),
    "two widths to average": (
        made(Bidirectional, LSTM(2, variant=Variant(projection=1)), LSTM(2, go_backwards=True), merge_mode="ave"),
        ValueError,
        "merge_mode 'ave' must have two outputs of one width",
        "(1, 2)",
    ),
    "Bidirectional params of one layer": (apply(BIDIRECTIONAL), TypeError, "params must be Directions", ""),
    "Bidirectional state of one layer": (
        apply(BIDIRECTIONAL, Directions(PARAMS, PARAMS)),
        TypeError,
        "state must be Directions",
        "",
    ),
    "Bidirectional reset": (
        apply(BIDIRECTIONAL, Directions(PARAMS, PARAMS), Directions(STATE, STATE), reset=MASK),
        ValueError,
        "reset must be None for Bidirectional",
        "",
    ),
    # --- Stack
    "Stack of nothing": (made(Stack, ()), TypeError, "layers must be a tuple of at least one layer", "()"),
    "Stack of one layer bare": (
        made(Stack, LSTM(2)),
        TypeError,
        "layers must be a tuple of at least one layer",
        "LSTM(2)",
    ),
    "Stack of a function": (
        made(Stack, (LAYER, 3)),
        TypeError,
        "layers[1] must be LSTM or Bidirectional or Stack",
        "3",
    ),
    "Stack on a last output": (
        made(Stack, (LSTM(2), LSTM(2))),
        ValueError,
        "layers[0].return_sequences must be True below another layer",
        "False",
    ),
    "Stack on a pair": (
        made(Stack, (Bidirectional(LAYER, merge_mode=None), LSTM(2))),
        ValueError,
        "layers[0].merge_mode must not be None below another layer",
        "None",
    ),
    "Stack dropout 1": (made(Stack, (LAYER,), dropout=1.0), ValueError, "dropout must be a number in [0, 1)", "1.0"),
    "Stack params of one layer": (
        apply(STACK),
        TypeError,
        "params must be a tuple of 2, one entry a layer",
        "",
    ),
    "Stack params too few": (
        apply(STACK, (PARAMS,), (STATE, STATE)),
        TypeError,
        "params must be a tuple of 2, one entry a layer",
        "a tuple of 1",
    ),
    "Stack state a list": (
        apply(STACK, (PARAMS, PARAMS), [STATE, STATE]),
        TypeError,
        "state must be a tuple of 2, one entry a layer",
        "",
    ),
    "Stack reset_state of one layer": (
        apply(STACK, (PARAMS, PARAMS), (STATE, STATE), reset=MASK, reset_state=STATE),
        TypeError,
        "reset_state must be a tuple of 2, one entry a layer",
        "",
    ),
    "Stack mask over outputs turned round": (
        apply(
            Stack((LSTM(N, return_sequences=True, go_backwards=True), LSTM(N))),
            (PARAMS, without(PARAMS, kernel=np.zeros((N, 4 * N), "float32"))),
            (STATE, STATE),
            mask=MASK,
        ),
        ValueError,
        "layers[0].keep_order must be True below another layer with mask or lengths",
        "False",
    ),
    # --- from_dict
    "unknown class": (
        read({"name": "GRU", "units": 3}),
        ValueError,
        "name must be one of 'LSTM', 'Bidirectional', 'Stack'",
        "'GRU'",
    ),
    "no class": (read({"units": 3}), ValueError, "name must be one of 'LSTM', 'Bidirectional', 'Stack'", "None"),
    "a class that is no layer": (
        read({"name": "Variant"}),
        ValueError,
        "name must be one of 'LSTM', 'Bidirectional', 'Stack'",
        "'Variant'",
    ),
    "a layer of another class": (
        read({"name": "Stack", "layers": []}, LSTM),
        ValueError,
        "name must be one of 'LSTM'",
        "'Stack'",
    ),
    "unknown field": (
        read({"name": "LSTM", "units": 3, "bias": 1}),
        ValueError,
        "a field of LSTM must be one of units, activation, ",
        "'bias'",
    ),
    "unknown field of an option": (
        read({"name": "LSTM", "units": 3, "kernel_regularizer": {"name": "L2", "l1": 1.0}}),
        ValueError,
        "a field of L2 must be one of l2",
        "'l1'",
    ),
    "unknown option": (
        read({"name": "LSTM", "units": 3, "kernel_regularizer": {"name": "L3"}}),
        ValueError,
        "name must be one of ",
        "'L3'",
    ),
    "a value that the field does not take": (
        read({"name": "LSTM", "units": "3"}),
        TypeError,
        "units must be a positive integer",
        "'3'",
    ),
    "a field left out": (read({"name": "LSTM"}), ValueError, "units must be given for LSTM", "nothing"),
    "a class where the field takes another": (
        read({"name": "LSTM", "units": 3, "variant": {"name": "L2"}}),
        ValueError,
        "name must be one of 'Variant'",
        "'L2'",
    ),
}


@pytest.mark.parametrize(("call", "error", "expected", "came"), WRONG.values(), ids=WRONG)
def test_wrong_call(call, error, expected, came):
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(expected)
    assert came in message[len(expected) :]
    assert FORMAT.match(message), message
    assert type(caught.value) is error


@pytest.mark.parametrize("name", ["x of rank 2", "mask of floats", "c too wide", "mask and lengths"])
def test_errors_come_while_tracing(name):
    call, error, expected, _ = WRONG[name]
    with pytest.raises(error, match="^" + re.escape(expected)):
        jax.eval_shape(call)


def test_lengths_that_are_traced_cannot_be_checked_and_are_clipped():
    as_jax = jnp.array([-3, T + 3])
    got = LAYER.apply(PARAMS, STATE, X, lengths=as_jax)
    expected = LAYER.apply(PARAMS, STATE, X, lengths=np.array([0, T]))
    np.testing.assert_array_equal(got[1], expected[1])


def test_remat_every_needs_a_number_of_steps():
    (t,) = jax.export.symbolic_shape("t")
    x = jax.ShapeDtypeStruct((B, t, D), "float32")
    layer = LSTM(N, remat_every=2)
    with pytest.raises(ValueError, match=r"^remat_every must be left out where .* is symbolic, got 2"):
        jax.export.export(jax.jit(lambda x: layer.apply(PARAMS, STATE, x)))(x)


def test_unknown_keyword_raises():
    with pytest.raises(TypeError, match="stateful"):
        LSTM(2, stateful=True)
    with pytest.raises(TypeError, match="training"):
        LAYER.apply(PARAMS, STATE, X, training=True)
