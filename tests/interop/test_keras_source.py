"""What from_keras takes and refuses, option by option and layer by layer; what to_keras refuses."""

import json
import warnings
from dataclasses import replace

import cases
import jax
import jax.numpy as jnp
import keras_peer as kp
import numpy as np
import optax
import pytest
from conftest import peer
from test_from_keras import MASK, TOLERANCE, B, D, L, T, built, save, stack

import jlstm
from jlstm import LSTM, Bidirectional, Stack, Variant
from jlstm.interop import from_keras, to_keras

keras = peer("keras")


@pytest.fixture(autouse=True)
def relaxed():
    """Keras runs between our calls all over this module."""
    with kp.relaxed():
        yield


def spec_of(*arguments, **options):
    """The spec that comes from a keras.layers.LSTM with these arguments."""
    return from_keras(built(L.LSTM(*arguments, **options)))[0]


# --- options -------------------------------------------------------------------------------------------------------


def test_a_plain_layer_is_a_plain_spec():
    assert spec_of(3) == LSTM(3, dtype="float32")


def test_loaded_weights_get_no_forget_bias():
    layer = L.LSTM(2)
    layer.build((None, T, D))
    spec, params = from_keras(layer)
    assert spec.unit_forget_bias
    np.testing.assert_array_equal(params.bias, [0, 0, 1, 1, 0, 0, 0, 0])
    layer.cell.bias.assign(np.zeros(8))
    np.testing.assert_array_equal(from_keras(layer)[1].bias, np.zeros(8))


@pytest.mark.parametrize(
    ("option", "theirs", "ours"),
    [
        ("kernel_initializer", lambda: keras.initializers.HeNormal(seed=3), "he_normal"),
        ("kernel_initializer", lambda: keras.initializers.RandomNormal(0.1, 0.2), jlstm.RandomNormal(0.1, 0.2)),
        ("kernel_initializer", lambda: keras.initializers.RandomUniform(-1, 1), jlstm.RandomUniform(-1, 1)),
        ("kernel_initializer", lambda: keras.initializers.TruncatedNormal(0, 1), jlstm.TruncatedNormal(0, 1)),
        (
            "kernel_initializer",
            lambda: keras.initializers.VarianceScaling(2.0, "fan_out", "uniform"),
            jlstm.VarianceScaling(2.0, "fan_out", "uniform"),
        ),
        ("recurrent_initializer", lambda: keras.initializers.Orthogonal(2.0), jlstm.Orthogonal(2.0)),
        ("recurrent_initializer", lambda: "identity", "identity"),
        ("bias_initializer", lambda: keras.initializers.Constant(0.5), jlstm.Constant(0.5)),
        ("kernel_initializer", lambda: keras.initializers.Constant(), "constant"),
        ("kernel_regularizer", lambda: keras.regularizers.L1L2(0.25, 0.5), jlstm.L1L2(0.25, 0.5)),
        ("recurrent_regularizer", lambda: keras.regularizers.L1(0.25), jlstm.L1(0.25)),
        ("bias_regularizer", lambda: keras.regularizers.L2(0.25), jlstm.L2(0.25)),
        ("activity_regularizer", lambda: "l2", "l2"),
        (
            "recurrent_regularizer",
            lambda: keras.regularizers.OrthogonalRegularizer(0.5, "columns"),
            jlstm.OrthogonalRegularizer(0.5, "columns"),
        ),
        ("kernel_constraint", lambda: keras.constraints.MaxNorm(3, axis=[0, 1]), jlstm.MaxNorm(3.0, (0, 1))),
        ("recurrent_constraint", lambda: keras.constraints.UnitNorm(1), jlstm.UnitNorm(1)),
        ("kernel_constraint", lambda: keras.constraints.MinMaxNorm(0.5, 2, 0.5, 1), jlstm.MinMaxNorm(0.5, 2.0, 0.5, 1)),
        ("bias_constraint", lambda: "non_neg", "non_neg"),
        ("activation", lambda: L.LeakyReLU(0.125), jlstm.LeakyReLU(0.125)),
        ("recurrent_activation", lambda: L.ELU(0.5), jlstm.ELU(0.5)),
        ("activation", lambda: None, "linear"),
        ("dropout", lambda: 0.25, 0.25),
        ("recurrent_dropout", lambda: 0.25, 0.25),
        ("implementation", lambda: 1, 1),
        ("unroll", lambda: True, True),
        ("unit_forget_bias", lambda: False, False),
        ("zero_output_for_mask", lambda: True, True),
    ],
)
def test_options_come_over_and_go_back(option, theirs, ours):
    layer = built(L.LSTM(3, **{option: theirs()}))
    expected = LSTM(3, **{option: ours}, dtype="float32")
    spec, params = from_keras(layer)
    assert spec == expected
    again = from_keras(to_keras(spec, params))
    assert again[0] == expected
    cases.same_bits(again[1], params)


def test_what_the_caller_holds_is_left_behind():
    assert spec_of(3, stateful=False, return_state=True, seed=3, use_cudnn=False, name="x", trainable=False) == spec_of(
        3
    )
    stateful = L.LSTM(3, stateful=True)
    stateful.build((B, T, D))
    assert from_keras(stateful)[0] == spec_of(3)


@pytest.mark.parametrize(
    ("policy", "compute", "weights"),
    [
        ("bfloat16", "bfloat16", "bfloat16"),
        ("mixed_bfloat16", "bfloat16", "float32"),
        ("mixed_float16", "float16", "float32"),
    ],
)
def test_dtype_policies(tmp_path, policy, compute, weights):
    layer = L.LSTM(3, dtype=policy, recurrent_initializer="glorot_uniform")  # Keras has no orthogonal one in bfloat16
    model = stack(layer)
    spec, params = from_keras(layer)
    assert (spec.dtype, spec.param_dtype, params.bias.dtype) == (compute, weights, weights)
    cases.same_bits(params.kernel, jnp.asarray(layer.cell.kernel.value))
    of_file = from_keras(save(model, tmp_path / "a.keras"))
    assert of_file[0] == spec
    cases.same_bits(of_file[1], params)
    assert to_keras(spec, params).dtype_policy.name == policy
    # Keras's state has the dtype of the computation; 8 bits of a mantissa leave errors of 2**-8 a product.
    x = np.random.default_rng(0).normal(0, 1, (B, T, D)).astype("float32")
    state, y = spec.apply(params, spec.initial_state(B, dtype=compute), x)
    assert y.dtype == layer(x).dtype == state.c.dtype == compute
    np.testing.assert_allclose(np.asarray(y, np.float32), np.asarray(layer(x), np.float32), atol=2e-2)
    assert to_keras(replace(spec, dtype=None), params).dtype_policy.name == weights


def test_dtypes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"^Bidirectional\.dtype must be that of the layers"):
        from_keras(built(L.Bidirectional(L.LSTM(2, dtype="mixed_bfloat16"))))
    with pytest.raises(ValueError, match=r"^RNN\.dtype must be"):
        from_keras(built(L.RNN(L.LSTMCell(2, dtype="mixed_bfloat16"))))
    with pytest.raises(ValueError, match=r"^LSTM\.autocast must be True"):
        from_keras(built(L.LSTM(2, dtype="mixed_bfloat16", autocast=False)))
    with pytest.raises(ValueError, match=r"^dtype must be a floating dtype"):
        from_keras("a.weights.h5", spec={"units": 3, "dtype": "int8_from_float32"})


@keras.saving.register_keras_serializable("ours")
def squashed(x):
    return keras.ops.tanh(x) / 2


def test_custom_objects():
    layer = built(L.LSTM(3, activation=squashed))
    with pytest.raises(
        ValueError,
        match=r"^activation must be one that jlstm has, got the custom function squashed: give .*custom_objects",
    ):
        from_keras(layer)

    def ours(x):
        return jnp.tanh(x) / 2

    for name in ("squashed", "ours>squashed"):
        assert from_keras(layer, custom_objects={name: ours})[0].activation is ours


def test_functions_of_the_users_own_with_names_of_keras():
    """get_config tells neither from the other; what the layer holds does."""

    @keras.saving.register_keras_serializable("ours")
    def sigmoid(x):
        return 2 * x

    def tanh(x):
        return keras.ops.tanh(x) / 2

    layers = [
        L.LSTM(3, activation=sigmoid),
        L.RNN(L.LSTMCell(3, activation=sigmoid)),
        L.Bidirectional(L.LSTM(3), backward_layer=L.LSTM(3, activation=sigmoid, go_backwards=True)),
        L.LSTM(3, recurrent_activation=tanh),
        L.LSTM(3, activation=keras.ops.gelu),  # of another default than that of keras.activations
    ]
    for layer, name in zip(layers, ("sigmoid", "sigmoid", "sigmoid", "tanh", "gelu"), strict=True):
        with pytest.raises(ValueError, match=f"activation must be .*, got the custom function {name}: give .*custom_o"):
            from_keras(built(layer))
    x = np.ones((B, T, D), "float32")
    for name in ("sigmoid", "ours>sigmoid"):
        for layer in layers[:2]:  # in which σ is Keras's
            spec, params = from_keras(layer, custom_objects={name: lambda x: 2 * x})
            assert spec.recurrent_activation == "sigmoid"
            np.testing.assert_allclose(spec.apply(params, spec.initial_state(B), x)[1], layer(x), atol=TOLERANCE)


def test_names_that_jlstm_refuses():
    for source, options in ((built(L.LSTM(3, activation="sparsemax")), {}), ("a.weights.h5", {"spec": CONFIG})):
        with pytest.raises(ValueError, match=r"^activation must be one .*got '?sparsemax"):
            from_keras(source, **options)
    assert from_keras(built(L.LSTM(3, activation="sparsemax")), custom_objects={"sparsemax": "tanh"})[0] == spec_of(3)
    with pytest.raises(ValueError, match=r"^kernel_initializer must be one that jlstm has, got STFT"):
        from_keras("a.weights.h5", spec={"units": 3, "kernel_initializer": {"class_name": "STFT", "config": {}}})
    with pytest.raises(ValueError, match=r"^LSTM must have no other options .*, got time_major"):
        from_keras("a.weights.h5", spec={"units": 3, "time_major": False})
    with pytest.raises(ValueError, match=r"^dropout must be a number in \[0, 1\), got 1"):
        from_keras(built(L.LSTM(3, dropout=1.0)))  # where Keras silently drops nothing


CONFIG = {"units": 3, "activation": "sparsemax"}


# --- layers and models ---------------------------------------------------------------------------------------------


def test_the_recurrent_part_of_a_model_by_name(tmp_path):
    model = stack(
        L.LSTM(2, return_sequences=True, name="a"), L.Dropout(0.2), L.LSTM(3, name="b"), L.Dense(2, name="top")
    )
    with pytest.raises(
        ValueError, match=r"^layers must be LSTM, .* got Dense 'top': name the recurrent ones in layers="
    ):
        from_keras(model)
    path, weights = save(model, tmp_path / "a.keras"), save(model, tmp_path / "a.weights.h5")
    expected = from_keras([model.layers[0], L.Dropout(0.2), model.layers[2]])
    assert expected[0] == Stack((LSTM(2, return_sequences=True, dtype="float32"), spec_of(3)), dropout=0.2)
    for source, options in ((model, {}), (path, {}), (weights, {"spec": model.get_config()})):
        spec, params = from_keras(source, layers=["a", "b"], **options)
        assert spec == expected[0]
        cases.same_bits(params, expected[1])
        spec, params = from_keras(source, layers="b", **options)
        assert spec == expected[0].layers[1]
        cases.same_bits(params, expected[1][1])
    # With a spec of jlstm's, by the groups of the file.
    cases.same_bits(from_keras(weights, spec=expected[0])[1], expected[1])
    cases.same_bits(from_keras(weights, spec=expected[0].layers[1], layers="lstm_1")[1], expected[1][1])
    with pytest.raises(ValueError, match=r"got \['c'\]"):
        from_keras(path, layers=["a", "c"])
    with pytest.raises(ValueError, match=r"^layers must name 2 groups"):
        from_keras(weights, spec=expected[0], layers="lstm")
    three = stack(*(L.LSTM(3, return_sequences=True, name=name) for name in "abc"))
    with pytest.raises(ValueError, match=r"leave out no recurrent layer .* \['b'\]"):
        from_keras(three, layers=["a", "c"])


@pytest.mark.parametrize("below", [L.LSTM, L.Dense])
def test_a_class_of_the_users_own_below_with_a_name_of_keras(tmp_path, below):
    """Keras numbers its groups by the name of the class, whosever it is."""
    own = type("LSTM", (below,), {})
    options = {"return_sequences": True} if below is L.LSTM else {}
    model = stack(own(D, name="own", **options), L.LSTM(D, name="plain"))
    path, weights = save(model, tmp_path / "a.keras"), save(model, tmp_path / "a.weights.h5")
    for source, given in ((model, {}), (path, {}), (weights, {"spec": json.loads(model.to_json())})):
        spec, params = from_keras(source, layers="plain", **given)
        assert spec == spec_of(D)
        np.testing.assert_array_equal(params.kernel, model.layers[1].cell.kernel.value)
        with pytest.raises(ValueError, match=r"^(.*a.keras: )?layers must be .*, got test_keras_source.LSTM 'own'"):
            from_keras(source, **given)


def test_masking_warns_with_the_mask_to_pass():
    model = stack(L.Masking(-1.0), L.LSTM(3, return_sequences=True, zero_output_for_mask=True))
    with pytest.warns(UserWarning, match=r"pass mask=jnp.any\(x != -1.0, axis=-1\) to apply") as caught:
        spec, params = from_keras(model)
    assert caught[0].filename == __file__
    x = np.where(np.asarray(MASK)[:, :, None], np.random.default_rng(0).normal(0, 1, (B, T, D)), -1).astype("float32")
    _, y = spec.apply(params, spec.initial_state(B), x, mask=jnp.any(x != -1.0, axis=-1))
    np.testing.assert_allclose(y, model(x), atol=3e-5)
    inner = keras.Sequential([L.Masking(name="inside"), L.LSTM(3, return_sequences=True)])
    with pytest.raises(ValueError, match=r"^Masking must stand in the outermost model, got 'inside' in a model within"):
        from_keras(stack(inner, L.LSTM(3)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: [L.LSTM(3)], "^source must be built"),
        (lambda: built(L.GRU(3)), "got GRU"),
        (lambda: built(L.RNN(L.GRUCell(3))), "^RNN.cell must be LSTMCell or StackedRNNCells of these, got GRUCell"),
        (lambda: built(L.RNN([L.LSTMCell(3), L.GRUCell(3)])), "^StackedRNNCells.cells must be LSTMCells, got GRUCell"),
        (lambda: built(type("Mine", (L.LSTM,), {})(3)), "got test_keras_source.Mine|got Mine"),
        (lambda: built(type("LSTM", (L.LSTM,), {})(3)), r"got test_keras_source.LSTM"),
        (lambda: [built(L.LSTM(3)), L.Dropout(0.5)], "^Dropout must stand between two recurrent layers"),
        (lambda: [L.Dropout(0.5), built(L.LSTM(3))], "got Dropout"),
        (lambda: [], "^layers must have a recurrent one, got none"),
        (
            lambda: stack(
                *(a for r in (0.1, 0.2) for a in (L.LSTM(3, return_sequences=True), L.Dropout(r))), L.LSTM(3)
            ),
            r"^Dropout must have one rate between all layers \(Stack.dropout\), got \[0.1, 0.2\]",
        ),
        (
            lambda: built(L.Bidirectional(L.LSTM(2), activity_regularizer="l2")),
            r"^Bidirectional.activity_regularizer must be None",
        ),
        (
            lambda: built(L.Bidirectional(L.LSTM(2, go_backwards=True), backward_layer=L.LSTM(2))),
            "^go_backwards must be False for forward",
        ),
    ],
)
def test_sources_that_a_spec_cannot_hold(source, message):
    with pytest.raises(ValueError, match=message):
        from_keras(source())


def test_sources_of_others():
    with pytest.raises(TypeError, match=r"^source must be a Keras layer or model, a list of layers or a path, got 3"):
        from_keras(3)
    for layers in (3, ["a", 3]):
        with pytest.raises(TypeError, match=r"^layers must be a name, a list of names or None, got"):
            from_keras(built(L.LSTM(3)), layers=layers)
    with pytest.raises(ValueError, match=r"^spec must be None where the source holds a configuration"):
        from_keras(built(L.LSTM(3)), spec=LSTM(3))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (LSTM(3, variant=Variant(peephole=True)), "^variant.peephole must be False for keras.layers.LSTM, got True"),
        (LSTM(3, variant=Variant(projection=2)), "^variant.projection must be None"),
        (LSTM(3, variant=Variant(coupled="input")), "^variant.coupled must be None"),
        (LSTM(3, variant=Variant(preact_clip=1.0)), "^variant.preact_clip must be None"),
        (LSTM(3, variant=Variant(output_activation="relu")), "^variant.output_activation must be None"),
        (LSTM(3, variant=Variant(forget_gate=False)), "^variant.forget_gate must be True"),
        (LSTM(3, go_backwards=True, keep_order=True, return_sequences=True), "^keep_order must be False with go_back"),
        (LSTM(3, activation="hard_sigmoid_keras2"), "^activation must be a name or a value that Keras has"),
        (LSTM(3, activation=jnp.sin), "^activation must be a name or a value that Keras has"),
        (LSTM(3, bias_initializer=jlstm.Chrono(9)), "^bias_initializer must be a name or a value that Keras has"),
        (LSTM(3, dtype="float64"), "^dtype must be None or float32, or 16 bits wide"),
        (Bidirectional(LSTM(3, implementation=1, dropout=0.5)), "^forward.implementation must be 2 for"),
        (Stack((Bidirectional(LSTM(3), merge_mode=None),)), r"^layers\[-1\].merge_mode must be a name for"),
    ],
)
def test_what_keras_cannot_express(spec, message):
    params = spec.init(jax.random.key(0), D)
    with pytest.raises(ValueError, match=message):
        to_keras(spec, params)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_an_output_activation_that_is_the_activation_is_no_variant(activation):
    plain = LSTM(3, activation=activation, dtype="float32")
    spec = replace(plain, variant=Variant(output_activation=activation))
    params = spec.init(jax.random.key(0), D)
    made = from_keras(to_keras(spec, params))
    assert made[0] == plain
    cases.same_bits(made[1], params)


def test_to_keras_with_states_and_with_steps_to_unroll():
    spec = LSTM(3, unroll=True)
    params = spec.init(jax.random.key(0), D)
    y, h, c = to_keras(spec, params, return_state=True)(np.ones((B, T, D), "float32"))
    state, _ = spec.apply(params, spec.initial_state(B), jnp.ones((B, T, D)))
    np.testing.assert_allclose(np.stack([y, h, c]), np.stack([state.h, state.h, state.c]), atol=3e-5)
    stacked = Stack((replace(spec, return_sequences=True), spec))
    params = stacked.init(jax.random.key(0), D)
    y = to_keras(stacked, params)(np.ones((B, T, D), "float32"))  # built at its first call: T is known then alone
    np.testing.assert_allclose(y, stacked.apply(params, stacked.initial_state(B), jnp.ones((B, T, D)))[1], atol=3e-5)
    with pytest.raises(ValueError, match=r"^return_state must be False for keras.Sequential"):
        to_keras(stacked, params, return_state=True)
    torch_like = jlstm.TorchUniform(4)
    made = to_keras(LSTM(3, kernel_initializer=torch_like), LSTM(3).init(jax.random.key(0), D))
    assert from_keras(made)[0].kernel_initializer == jlstm.RandomUniform(-0.5, 0.5)


def test_training_as_the_page_translates_it():
    """docs/from_keras.md: penalties, clipping, Adam and constraints, batch by batch, against fit."""
    layer = L.LSTM(3, kernel_regularizer="l2", recurrent_constraint=keras.constraints.MaxNorm(0.9))
    model = stack(layer)
    spec, params = from_keras(model)
    x, y = (np.random.default_rng(n).normal(0, 1, s).astype("float32") for n, s in enumerate([(12, T, D), (12, 3)]))
    model.compile(keras.optimizers.Adam(0.02, global_clipnorm=0.5), loss="mse")
    with warnings.catch_warnings(action="ignore"):
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)

    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.02, eps=1e-7))
    opt_state = optimizer.init(params)

    def loss(params, x, y):
        return jnp.mean((spec.apply(params, spec.initial_state(len(x)), x)[1] - y) ** 2) + spec.penalty(params)

    @jax.jit
    def update(params, opt_state, x, y):
        updates, opt_state = optimizer.update(jax.grad(loss)(params, x, y), opt_state, params)
        return spec.constrain(optax.apply_updates(params, updates)), opt_state

    for rows in np.arange(24).reshape(6, 4) % 12:
        params, opt_state = update(params, opt_state, x[rows], y[rows])
    for ours, theirs in zip(kp.flat(params), layer.trainable_variables, strict=True):
        np.testing.assert_allclose(ours, theirs.value, atol=1e-3)  # Adam divides by small gradients: six steps of 0.02
