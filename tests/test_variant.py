"""Variants of the cell: by hand, against the oracle, against onnxruntime and torch; and what they cost when off."""

from functools import partial

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jlstm import LSTM, Bidirectional, Directions, LSTMParams, LSTMState, Stack, Variant, lstm_cell, lstm_scan

B, T, D, N, P = 3, 5, 2, 4, 3

VARIANTS = {
    "peephole": {"peephole": True},
    "coupled input": {"coupled": "input"},
    "coupled forget": {"coupled": "forget"},
    "projection": {"projection": P},
    "preact_clip": {"preact_clip": 0.4},
    "output_activation": {"output_activation": "softsign"},
    "no forget gate": {"forget_gate": False},
    "peephole, coupled input": {"peephole": True, "coupled": "input"},
    "peephole, no forget gate": {"peephole": True, "forget_gate": False},
    "all that fits": {
        "peephole": True,
        "coupled": "forget",
        "projection": P,
        "preact_clip": 0.7,
        "output_activation": "relu",
    },
}


def drawn(fields, D=D, seed=1):
    """Weights, state and width of h for the fields of a Variant."""
    width = fields.get("projection")
    made = cases.weights(seed, D, N, width, peephole=fields.get("peephole", False), projection=bool(width))
    return made, cases.state(seed + 1, B, N, width)


@partial(jax.jit, static_argnums=0)
def apply(layer, params, state, x, options):
    return layer.apply(params, state, x, **options)


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_variant_matches_the_oracle(fields):
    weights, state = drawn(fields)
    x, mask, reset = cases.inputs(3, B, T, D), cases.bools(4, B, T), cases.bools(5, B, T, p=0.2)
    (h, c), y = reference.lstm(weights, state, x, mask=mask, reset=reset, **fields)
    layer = LSTM(N, variant=Variant(**fields), return_sequences=True)
    options = {"mask": jnp.asarray(mask), "reset": jnp.asarray(reset)}
    got = apply(layer, cases.params(weights), cases.lstm_state(state), cases.array(x), options)
    cases.close(got, (LSTMState(h=h, c=c), y), **cases.F32)


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_variant_differs_from_the_plain_cell(fields):
    # a test of the test: an option that is ignored would agree with the oracle where the oracle ignores it too
    weights, state = drawn(fields)
    x = cases.inputs(3, B, T, D)
    _, y = reference.lstm(weights, state, x, **fields)
    without = {k: v for k, v in fields.items() if k == "projection"}
    if fields != without:
        _, plain = reference.lstm(weights, state, x, **without)
        assert np.max(np.abs(y - plain)) > 0.01


def one_unit(bias, peephole=None, **parts):
    zeros = jnp.zeros((1, 4))
    return LSTMParams(
        kernel=zeros,
        recurrent_kernel=zeros,
        bias=jnp.array(bias, "float32"),
        peephole=None if peephole is None else jnp.array([[p] for p in peephole], "float32"),
        **parts,
    )


@pytest.mark.parametrize(
    ("variant", "params", "c", "h"),
    [
        # linear, biases i f g o = 2 3 5 7, c = 1: plain c' = 3·1 + 2·5 = 13, h' = 7·13 = 91
        (Variant(), one_unit([2, 3, 5, 7]), 13, 91),
        # i = 2 + 1·1, f = 3 + 10·1, c' = 13·1 + 3·5 = 28; o reads the new c: 7 + 100·28
        (Variant(peephole=True), one_unit([2, 3, 5, 7], [1, 10, 100]), 28, 2807 * 28),
        # i = 1 - 3 = -2: c' = 3 - 10
        (Variant(coupled="input"), one_unit([2, 3, 5, 7]), -7, -49),
        # f = 1 - 2 = -1: c' = -1 + 10
        (Variant(coupled="forget"), one_unit([2, 3, 5, 7]), 9, 63),
        # f = 1: c' = 1 + 10
        (Variant(forget_gate=False), one_unit([2, 3, 5, 7]), 11, 77),
        # i f g o = 2 2.5 2.5 2.5, and c is not clipped: c' = 2.5 + 5 = 7.5
        (Variant(preact_clip=2.5), one_unit([2, 3, 5, 7]), 7.5, 18.75),
        (Variant(preact_clip=2.5), one_unit([2, -3, -5, 7]), -7.5, -18.75),
        # the peephole is clipped with the rest: o = min(7 + 100 c', 8)
        (Variant(peephole=True, preact_clip=8.0), one_unit([2, 3, 5, 7], [0, 0, 100]), 13, 8 * 13),
        # φ_h = relu: c' = -3 - 10 = -13, h' = 0
        (Variant(output_activation="relu"), one_unit([2, -3, -5, 7]), -13, 0),
        # h' = 91 · 10
        (Variant(projection=1), one_unit([2, 3, 5, 7], projection=jnp.array([[10.0]])), 13, 910),
    ],
)
def test_variant_by_hand(variant, params, c, h):
    state = LSTMState(h=jnp.zeros(1), c=jnp.ones(1))
    options = {"activation": "linear", "recurrent_activation": "linear"}
    state, y = lstm_cell(params, state, jnp.zeros(1), variant=variant, **options)
    assert state.c.tolist() == [c]
    assert state.h.tolist() == [h]
    assert y.tolist() == [h]


def test_shapes_of_the_parts():
    params = LSTM(N, variant=Variant(peephole=True, projection=P)).init(jax.random.key(0), D)
    assert {name: part.shape for name, part in vars(params).items()} == {
        "kernel": (D, 4 * N),
        "recurrent_kernel": (P, 4 * N),
        "bias": (4 * N,),
        "peephole": (3, N),
        "projection": (N, P),
    }
    assert not np.any(params.peephole)  # they start as the plain cell
    assert np.all(params.projection != 0)
    layer = LSTM(N, variant=Variant(projection=P))
    assert layer.output_size == P
    state = layer.initial_state(B)
    assert (state.h.shape, state.c.shape) == ((B, P), (B, N))


def test_a_projection_is_what_the_layer_above_and_the_merge_read():
    projected = LSTM(N, return_sequences=True, variant=Variant(projection=P))
    layer = Stack((Bidirectional(projected), projected, LSTM(N)))
    params = layer.init(jax.random.key(0), D)
    assert params[1].kernel.shape == (2 * P, 4 * N)
    assert params[2].kernel.shape == (P, 4 * N)
    _, y = layer.apply(params, layer.initial_state(B), jnp.ones((B, T, D)))
    assert y.shape == (B, N)


def test_recurrent_dropout_of_a_projection_is_p_wide():
    layer = LSTM(N, dropout=0.5, recurrent_dropout=0.5, variant=Variant(projection=P, peephole=True))
    params = layer.init(jax.random.key(0), D)
    _, y = layer.apply(params, layer.initial_state(B), jnp.ones((B, T, D)), key=jax.random.key(1))
    assert y.shape == (B, P)
    assert np.all(np.isfinite(y))


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_variant_has_finite_gradients_and_keeps_dtypes(fields):
    weights, state = drawn(fields)
    layer = LSTM(N, variant=Variant(**fields))

    @jax.jit
    def loss(params, state, x):
        state, y = layer.apply(params, state, x)
        return jnp.sum(y.astype("float32")), (state, y)

    arguments = cases.params(weights), cases.lstm_state(state), cases.array(cases.inputs(3, B, T, D), "bfloat16")
    grads, (state, y) = jax.grad(loss, has_aux=True)(*arguments)
    assert (state.h.dtype, state.c.dtype, y.dtype) == ("float32", "float32", "bfloat16")
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


# --- an option that is off costs nothing ----------------------------------------------------------------------------


def plain_cell(params, state, x):
    """The gate equations and nothing else, in the words of jlstm's plain cell."""
    z = jnp.matmul(x, params.kernel, preferred_element_type=x.dtype)
    z = z + jnp.matmul(state.h, params.recurrent_kernel, preferred_element_type=x.dtype)
    return plain_gates(z + params.bias, state)


def plain_gates(z, state):
    i, f, g, o = jnp.split(z, 4)
    c = jax.nn.sigmoid(f) * state.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return LSTMState(h=h, c=c), h


def primitives(jaxpr):
    """The names of all primitives but those that only change a dtype or wrap a call, in order, at any depth."""
    names = []
    for equation in jaxpr.eqns:
        inner = [v for v in equation.params.values() if hasattr(v, "eqns") or hasattr(v, "jaxpr")]
        if equation.primitive.name != "convert_element_type" and not inner:
            names.append(equation.primitive.name)
        for value in inner:
            names += primitives(getattr(value, "jaxpr", value))
    return names


def test_the_default_variant_costs_nothing():
    weights, (h, c) = drawn({})
    arguments = cases.params(weights), LSTMState(h=cases.array(h[0]), c=cases.array(c[0])), jnp.ones(D)
    cell = jax.make_jaxpr(lstm_cell)(*arguments)
    assert sorted(primitives(cell.jaxpr)) == sorted(primitives(jax.make_jaxpr(plain_cell)(*arguments).jaxpr))
    xs = jnp.ones((T, D))
    bodies = [loop_body(jax.make_jaxpr(f)(*arguments[:2], xs)) for f in (lstm_scan, scan_of_plain_cell)]
    assert sorted(primitives(bodies[0])) == sorted(primitives(bodies[1]))
    explicit = jax.make_jaxpr(partial(lstm_cell, variant=Variant(forget_gate=True, coupled=None)))(*arguments)
    assert str(explicit) == str(cell)


def scan_of_plain_cell(params, state, xs):
    def step(state, x):  # of one product
        x = jnp.concatenate([x, state.h])
        joined = jnp.concatenate([params.kernel, params.recurrent_kernel])
        return plain_gates(jnp.matmul(x, joined) + params.bias, state)

    return jax.lax.scan(step, state, xs)


def loop_body(closed):
    (loop,) = [equation for equation in closed.jaxpr.eqns if equation.primitive.name == "scan"]
    return loop.params["jaxpr"].jaxpr


# --- peers ----------------------------------------------------------------------------------------------------------

ONNX_ORDER = [0, 3, 1, 2]  # i o f g, as positions in i f g o
ONNX = {
    "plain": {},
    "peephole": {"peephole": True},
    "clip": {"preact_clip": 0.4},
    "input_forget": {"coupled": "forget"},
    "peephole, clip": {"peephole": True, "preact_clip": 0.4},
    "activations": {
        "recurrent_activation": "hard_sigmoid_keras2",
        "activation": "relu",
        "output_activation": "softsign",
    },
    "peephole, activations": {
        "peephole": True,
        "recurrent_activation": "sigmoid",
        "activation": "softsign",
        "output_activation": "relu",
    },
}
ONNX_NAMES = {
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "relu": "Relu",
    "softsign": "Softsign",
    "hard_sigmoid_keras2": "HardSigmoid",
}


def in_onnx(weights, state, x, lengths, fields, peer):
    """Run the operator LSTM of onnxruntime: h, c, y of one forward direction."""
    onnx, runtime = peer("onnx"), peer("onnxruntime")

    def per_gate(a):  # [.., 4N] in i f g o -> [1, 4N, ..] in i o f g
        blocks = np.split(np.asarray(a, np.float32), 4, axis=-1)
        return np.concatenate([blocks[k] for k in ONNX_ORDER], axis=-1).T[None]

    peepholes = weights.get("peephole", np.zeros((3, N)))
    feeds = {
        "X": np.swapaxes(x, 0, 1).astype(np.float32),
        "W": per_gate(weights["kernel"]),
        "R": per_gate(weights["recurrent_kernel"]),
        "B": np.concatenate([per_gate(weights["bias"]), np.zeros((1, 4 * N), np.float32)], axis=1),
        "sequence_lens": lengths.astype(np.int32),
        "initial_h": state[0][None].astype(np.float32),
        "initial_c": state[1][None].astype(np.float32),
        "P": peepholes[[0, 2, 1]].reshape(1, 3 * N).astype(np.float32),  # i f o -> i o f
    }
    options = [fields.get("recurrent_activation", "sigmoid"), fields.get("activation", "tanh")]
    options.append(fields.get("output_activation") or options[1])
    attributes = {"hidden_size": N, "activations": [ONNX_NAMES[name] for name in options]}
    if "preact_clip" in fields:
        attributes["clip"] = fields["preact_clip"]
    if fields.get("coupled") == "forget":
        attributes["input_forget"] = 1
    node = onnx.helper.make_node("LSTM", list(feeds), ["Y", "Y_h", "Y_c"], **attributes)
    types = {np.dtype(np.float32): onnx.TensorProto.FLOAT, np.dtype(np.int32): onnx.TensorProto.INT32}
    graph = onnx.helper.make_graph(
        [node],
        "lstm",
        [onnx.helper.make_tensor_value_info(k, types[v.dtype], v.shape) for k, v in feeds.items()],
        [onnx.helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, None) for k in ("Y", "Y_h", "Y_c")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y, h, c = session.run(None, feeds)
    return h[0], c[0], np.swapaxes(y[:, 0], 0, 1)


@pytest.mark.parametrize("fields", ONNX.values(), ids=ONNX)
def test_variant_matches_onnxruntime(fields, peer):
    weights, state = drawn(fields)
    x, lengths = cases.inputs(3, B, T, D), np.array([T, 3, 1])
    h, c, y = in_onnx(weights, state, x, lengths, fields, peer)
    own = {k: fields[k] for k in ("activation", "recurrent_activation") if k in fields}
    variant = Variant(**{k: v for k, v in fields.items() if k not in own})
    layer = LSTM(N, variant=variant, return_sequences=True, zero_output_for_mask=True, **own)  # padding: zeros in ONNX
    options = {"lengths": jnp.asarray(lengths, "int32")}
    got = apply(layer, cases.params(weights), cases.lstm_state(state), cases.array(x), options)
    # onnxruntime's own tanh and sigmoid are approximations, good to some 1e-6 a step
    cases.close(got, (LSTMState(h=h, c=c), y), rtol=2e-5, atol=2e-5)


def torch_weights(module, layer, suffix=""):
    """One direction of one layer of a torch.nn.LSTM, as a dict for LSTMParams: two biases become one."""
    named = {k: v.detach().numpy() for k, v in module.named_parameters() if k.endswith(f"_l{layer}{suffix}")}
    named = {k.removesuffix(f"_l{layer}{suffix}"): v for k, v in named.items()}
    made = {
        "kernel": named["weight_ih"].T,
        "recurrent_kernel": named["weight_hh"].T,
        "bias": named["bias_ih"] + named["bias_hh"],
    }
    if "weight_hr" in named:
        made["projection"] = named["weight_hr"].T
    return cases.params(made)


@pytest.mark.parametrize("projection", [None, P])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_matches_torch(projection, layers, bidirectional, peer):
    torch = peer("torch")
    torch.manual_seed(0)
    module = torch.nn.LSTM(D, N, layers, batch_first=True, bidirectional=bidirectional, proj_size=projection or 0)
    one = LSTM(N, return_sequences=True, variant=Variant(projection=projection))
    layer = Stack((Bidirectional(one) if bidirectional else one,) * layers)
    ways = 2 if bidirectional else 1
    h, c = cases.state(5, (layers * ways, B), N, projection)
    states = [cases.lstm_state((h[n], c[n])) for n in range(layers * ways)]
    params = [torch_weights(module, n // ways, "_reverse" * (n % ways)) for n in range(layers * ways)]
    if bidirectional:
        states, params = ([Directions(*pair) for pair in zip(a[::2], a[1::2], strict=True)] for a in (states, params))
    x, lengths = cases.inputs(6, B, T, D), np.array([T, 4, 2])

    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.tensor(x, dtype=torch.float32), lengths, batch_first=True)
    given = tuple(torch.tensor(a, dtype=torch.float32) for a in (h, c))
    with torch.no_grad():
        packed_y, (last_h, last_c) = module(packed, given)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(packed_y, batch_first=True, total_length=T)

    options = {"lengths": jnp.asarray(lengths, "int32")}
    state, y = apply(layer, tuple(params), tuple(states), cases.array(x), options)
    valid = np.arange(T) < lengths[:, None]
    np.testing.assert_allclose(np.where(valid[..., None], y, 0), expected.numpy(), **cases.F32)
    # LSTMState(h, c) leaves alternate h, c, layer by layer, forward before backward: torch's order
    leaves = jax.tree.leaves(state)
    np.testing.assert_allclose(np.stack(leaves[::2]), last_h.numpy(), **cases.F32)
    np.testing.assert_allclose(np.stack(leaves[1::2]), last_c.numpy(), **cases.F32)


def test_coupled_input_of_tflite_is_its_definition():
    # CIFG has no gate i of its own: c' = f c + (1 - f) g, whatever stands in the slice of i
    weights, state = drawn({})
    x = cases.inputs(3, B, T, D)
    layer = LSTM(N, variant=Variant(coupled="input"))
    expected = apply(layer, cases.params(weights), cases.lstm_state(state), cases.array(x), {})
    for name in ("kernel", "recurrent_kernel", "bias"):
        weights[name] = weights[name].copy()
        weights[name][..., :N] = 9
    cases.same_bits(apply(layer, cases.params(weights), cases.lstm_state(state), cases.array(x), {}), expected)


def test_the_cell_of_1997_leaves_its_forget_slice_unread():
    weights, state = drawn({})
    x = cases.inputs(3, B, T, D)
    layer = LSTM(N, variant=Variant(forget_gate=False))
    expected = apply(layer, cases.params(weights), cases.lstm_state(state), cases.array(x), {})
    for name in ("kernel", "recurrent_kernel", "bias"):
        weights[name] = weights[name].copy()
        weights[name][..., N : 2 * N] = 9
    cases.same_bits(apply(layer, cases.params(weights), cases.lstm_state(state), cases.array(x), {}), expected)
