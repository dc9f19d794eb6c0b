"""What explain says: counts, costs and times against arrays, against XLA, and against the live libraries."""

import json
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlstm
from jlstm import LSTM, Bidirectional, Stack, Variant
from jlstm.facts import layers_of

B, T, D = 4, 5, 3
SPECS = {
    "plain": LSTM(6),
    "sequences": LSTM(6, return_sequences=True),
    "one unit": LSTM(1, use_bias=False),
    "backwards": LSTM(6, go_backwards=True, return_sequences=True),
    "kept order": LSTM(6, go_backwards=True, return_sequences=True, keep_order=True),
    "backwards, last": LSTM(6, go_backwards=True),
    "all parts": LSTM(6, variant=Variant(peephole=True, projection=2, preact_clip=3.0, output_activation="relu")),
    "coupled": LSTM(6, variant=Variant(coupled="input")),
    "1997": LSTM(6, variant=Variant(forget_gate=False), activation="relu"),
    "half": LSTM(6, param_dtype="bfloat16"),
    "both": Bidirectional(LSTM(6, return_sequences=True)),
    "both, last": Bidirectional(LSTM(6), LSTM(4, go_backwards=True)),
    "summed": Bidirectional(LSTM(6), merge_mode="sum"),
    "pair": Bidirectional(LSTM(6, return_sequences=True), merge_mode=None),
    "stack": Stack((Bidirectional(LSTM(6, return_sequences=True)), LSTM(4)), dropout=0.5),
    "nested": Stack((Stack((LSTM(6, return_sequences=True), LSTM(5, return_sequences=True))), LSTM(4)), dropout=0.5),
    "over both": Stack((Bidirectional(LSTM(6, return_sequences=True)), LSTM(4, return_sequences=True))),
    "turned": Stack((LSTM(6, return_sequences=True, go_backwards=True), LSTM(4, return_sequences=True))),
    "turned, last": Stack((LSTM(6, return_sequences=True, go_backwards=True), LSTM(4))),
}


@pytest.fixture(params=SPECS)
def spec(request):
    return SPECS[request.param]


def shapes(tree):
    return [tuple(a.shape) for a in jax.tree.leaves(tree)]


def test_weights_and_counts_are_those_of_init(spec):
    params = jax.eval_shape(lambda key: spec.init(key, D), jax.random.key(0))
    data = jlstm.explain(spec, D).data
    told = [tuple(w["shape"]) for layer in data["layers"] for w in layer["weights"].values()]
    assert told == shapes(params)
    assert data["parameters"] == sum(a.size for a in jax.tree.leaves(params))
    assert data["costs"]["bytes_weights"] == sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(params))


def test_formulas_are_true_in_letters_and_in_numbers(spec):
    for layer in layers_of(spec, D):
        formula = layer.formula
        values = {"N": layer.spec.units, "P": layer.spec.output_size, "D": layer.input_size}
        for text in (formula.letters, formula.numbers):
            assert eval(text.replace("·", "*"), {}, values) == formula.total


def test_shapes_are_those_of_apply(spec):
    told = jlstm.explain(spec, D, T, B).data["shapes"]

    def run(key):
        return spec.apply(spec.init(key, D), spec.initial_state(B), jnp.ones((B, T, D)))

    state, y = jax.eval_shape(run, jax.random.key(0))
    written = [tuple(map(int, re.findall(r"\d+", text))) for name, text in told.items() if name.startswith("state")]
    assert written == shapes(state)
    assert told["x"] == f"[{B}, {T}, {D}]"
    assert told["y"] == str(jax.tree.map(lambda a: list(a.shape), y))
    sizes = jlstm.explain(spec, D, T, B).data["sizes"]
    assert list(sizes) == list(told)
    assert [tuple(size) for name, size in sizes.items() if name.startswith("state")] == shapes(state)
    assert sizes["x"] == [B, T, D]
    assert sizes["y"] == jax.tree.map(lambda a: list(a.shape), list(y) if isinstance(y, tuple) else y)


def test_the_slices_of_a_gate_are_where_it_lies():
    spec = LSTM(6)
    params = spec.init(jax.random.key(0), D)
    first, last = jlstm.explain(spec, D).data["layers"][0]["weights"]["bias"]["gates"]["f"]
    assert (np.asarray(params.bias)[first:last] == 1).all()  # unit_forget_bias
    assert np.asarray(params.bias).sum() == last - first


def read_by(spec, t):
    """Which steps of x the output at index t hangs on, by its gradient."""
    params = spec.init(jax.random.key(0), D)

    def output(x):
        y = spec.apply(params, spec.initial_state(1), x)[1][0]
        return (y[t] if spec.return_sequences else y).sum()

    slope = jax.jit(jax.grad(output))(jax.random.normal(jax.random.key(1), (1, T, D)))[0]
    return np.flatnonzero(np.abs(slope).sum(axis=1)).tolist()


@pytest.mark.parametrize(
    ("name", "sentence", "index", "steps"),
    [
        ("sequences", "y[:, t] is h after reading x[:, 0] up to x[:, t].", 1, [0, 1]),
        ("backwards", "y[:, k] is h after reading x[:, 4] down to x[:, 4-k]: in the order of processing.", 1, [3, 4]),
        ("kept order", "y[:, t] is h after reading x[:, 4] down to x[:, t].", 1, [1, 2, 3, 4]),
        ("plain", "y is h after the last step read, x[:, 4].", 0, [0, 1, 2, 3, 4]),
        ("backwards, last", "y is h after the last step read, x[:, 0].", 0, [0, 1, 2, 3, 4]),
        ("turned", "y[:, k] is h of the last layer after reading x[:, 4] down to x[:, 4-k]:", 1, [3, 4]),
        ("turned, last", "y is h of the last layer after the last step read, x[:, 0].", 0, [0, 1, 2, 3, 4]),
        (
            "over both",
            "y[:, t] is h of the last layer at x[:, t]; through the layers below it has all of x in it.",
            1,
            [0, 1, 2, 3, 4],
        ),
    ],
)
def test_times_of_outputs(name, sentence, index, steps):
    assert sentence in str(jlstm.explain(SPECS[name], D, T))
    assert read_by(SPECS[name], index) == steps


@pytest.mark.parametrize("name", ["kept order", "plain", "both", "both, last", "pair", "over both", "turned"])
def test_times_in_the_data_are_those_of_the_gradient(name):
    """The expressions of the data, evaluated, against the steps of x that each output has a slope in."""
    spec = SPECS[name]
    params = spec.init(jax.random.key(0), D)
    entries = jlstm.explain(spec, D, T).data["times"]
    steps, indices = np.broadcast_to(np.arange(T), (1, T)), range(T) if spec.return_sequences else [0]

    def outputs(x):
        y = spec.apply(params, spec.initial_state(1), x)[1]
        parts = [eval(entry["output"], {"y": y, "t": v, "k": v}) for entry in entries for v in indices]
        return jnp.stack([part.sum() for part in parts])

    slopes = jax.jit(jax.jacrev(outputs))(jax.random.normal(jax.random.key(1), (1, T, D)))
    found = iter(np.abs(slopes).sum(axis=(1, 3)))
    for entry in entries:
        for v in indices:
            first, last, at = (eval(x, {"x": steps, "t": v, "k": v})[0] for x in (*entry["reads"], entry["at"]))
            assert np.flatnonzero(next(found)).tolist() == list(range(min(first, last), max(first, last) + 1))
            assert at == last or name == "over both"
    assert next(found, None) is None


def test_times_of_the_two_halves():
    text = str(jlstm.explain(SPECS["both"], D, T))
    assert "y[..., :6][:, t] is h after reading x[:, 0] up to x[:, t]." in text
    assert "y[..., 6:][:, t] is h after reading x[:, 4] down to x[:, t]." in text
    assert read_by(replace(SPECS["both"].backward, keep_order=True), 3) == [3, 4]
    pair = Bidirectional(
        LSTM(6, return_sequences=True), LSTM(4, return_sequences=True, go_backwards=True), merge_mode=None
    )
    assert f"{T} outputs, one a time step, each a pair of widths 6 and 4." in str(jlstm.explain(pair, D, T))


@pytest.mark.parametrize(
    ("name", "words", "cuts"),
    [
        ("sequences", "chunks of a sequence then give the numbers of the whole.", [slice(0, 2), slice(2, T)]),
        ("turned", "chunks of a sequence, the last one first, then give the numbers", [slice(2, T), slice(0, 2)]),
        ("both", "chunks of a sequence do not give the numbers of the whole here", None),
        ("over both", "chunks of a sequence do not give the numbers of the whole here", None),
    ],
)
def test_what_passing_on_the_state_gives(name, words, cuts):
    spec = SPECS[name]
    told = re.sub(r"\s+", " ", str(jlstm.explain(spec, D, T)))
    assert f"stateful=True is nothing but passing on the state that came out; {words}" in told
    params, x = spec.init(jax.random.key(0), D), jax.random.normal(jax.random.key(1), (1, T, D))
    whole = spec.apply(params, spec.initial_state(1), x)[1]
    for order in [cuts] if cuts else ([slice(0, 2), slice(2, T)], [slice(2, T), slice(0, 2)]):
        state, pieces = spec.initial_state(1), []
        for cut in order:
            state, y = spec.apply(params, state, x[:, cut])
            pieces.append(y)
        same = any(np.allclose(np.concatenate(p, axis=1), whole, atol=1e-6) for p in (pieces, pieces[::-1]))
        assert same == (cuts is not None)


@pytest.mark.parametrize("name", ["sequences", "stack", "both", "all parts"])
def test_operations_are_those_that_xla_counts(name):
    """XLA counts each activation's own arithmetic too, and little else."""

    def wide(spec):
        if isinstance(spec, Stack):
            return replace(spec, layers=tuple(map(wide, spec.layers)))
        if isinstance(spec, Bidirectional):
            return Bidirectional(wide(spec.forward))
        variant = replace(spec.variant, projection=48) if spec.variant.projection else spec.variant
        return replace(spec, units=96, unroll=True, backend="xla", variant=variant)

    spec = wide(SPECS[name])
    like = jax.eval_shape(lambda key: spec.init(key, 32), jax.random.key(0))
    x = jax.ShapeDtypeStruct((B, T, 32), "float32")
    analysis = jax.jit(spec.apply).lower(like, spec.initial_state(B), x).compile().cost_analysis()
    told = jlstm.explain(spec, 32, T, B).data["costs"]["flops_forward"]
    assert 0.95 * analysis["flops"] <= told <= 1.001 * analysis["flops"]


@pytest.mark.parametrize(
    "spec",
    [
        LSTM(6, variant=Variant(projection=2), param_dtype="bfloat16", dtype="bfloat16"),
        Stack((SPECS["both"], LSTM(4, return_sequences=True, dtype="bfloat16"))),
        Bidirectional(LSTM(6), LSTM(4, dtype="bfloat16", go_backwards=True), merge_mode=None),
        SPECS["summed"],
    ],
    ids=str,
)
def test_a_call_takes_and_returns_the_bytes_that_are_told(spec):
    def run(key, x):
        params, state = spec.init(key, D), spec.initial_state(B)
        return params, state, *spec.apply(params, state, x)

    def size(tree):
        return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree))

    x = jnp.ones((B, T, D))
    params, start, state, y = jax.eval_shape(run, jax.random.key(0), x)
    explanation = jlstm.explain(spec, D, T, B)
    costs = explanation.data["costs"]
    assert [costs[f"bytes_{name}"] for name in ("weights", "state", "x", "y")] == [*map(size, (params, state, x, y))]
    assert size(start) == size(state)
    told = f"reads {size(x)} bytes of x, where that is float32, and {size(state)} bytes of state; it returns {size(y)}"
    assert told in re.sub(r"\s+", " ", str(explanation))


def test_without_a_batch_size_one_row_is_told():
    one, several = (jlstm.explain(SPECS["stack"], D, T, rows) for rows in (None, B))
    costs = one.data["costs"], several.data["costs"]
    assert [found["rows"] for found in costs] == [1, B]
    for name in ("flops_forward", "flops_training", "bytes_x", "bytes_y", "bytes_state", "bytes_kept"):
        assert B * costs[0][name] == costs[1][name] > 0
    assert jlstm.explain(SPECS["stack"], D, T, 1).data["backend"] == one.data["backend"] != []
    for word in ("Forward", "Training step", "A call", "Training", "Backend"):
        assert [f"{word} of one row" in str(told) for told in (one, several)] == [True, False]
    assert "With timesteps: operations" in str(jlstm.explain(SPECS["stack"], D))


def test_the_backend_of_one_row_is_not_that_of_many():
    """One time step of more than 8 rows goes to xla."""
    one, many = (jlstm.explain(SPECS["plain"], D, 1, rows).data["backend"][0] for rows in (None, 32))
    assert one.startswith(str(jlstm.which_backend(SPECS["plain"], (1, 1, D))))
    assert many == str(jlstm.which_backend(SPECS["plain"], (32, 1, D)))
    assert many.startswith("xla; not cpu: ")


@pytest.mark.parametrize(("backend", "why"), [("auto", "it has all that the layer asks"), ("cpu", 'backend="cpu"')])
def test_the_kernel_is_told_with_its_reason(backend, why):
    spec = LSTM(6, backend=backend)
    if jlstm.which_backend(LSTM(6), (B, T, D)).backend != "cpu":
        pytest.skip("the kernel does not run here")
    assert why in jlstm.explain(spec, D, T, B).data["backend"][0]


def compiled_training(spec, steps):
    state, x = spec.initial_state(32), jnp.ones((32, steps, 32))

    def loss(params, x):
        return spec.apply(params, state, x)[1].sum()

    return jax.jit(jax.grad(loss, argnums=(0, 1))).lower(spec.init(jax.random.key(0), 32), x).compile()


def test_training_costs_three_products():
    spec = LSTM(96, return_sequences=True, backend="xla", unroll=True)
    costs = jlstm.explain(spec, 32, 12, 32).data["costs"]
    # The rest is elementwise: the slopes of the gates, and the sums of the weights' gradients over the steps.
    assert 0.9 <= costs["flops_training"] / compiled_training(spec, 12).cost_analysis()["flops"] <= 1.0


def test_training_with_remat_costs_one_more_forward_pass():
    spec = LSTM(96, return_sequences=True, backend="xla", unroll=True, remat_every=3)
    costs = jlstm.explain(spec, 32, 12, 32).data["costs"]
    counted = 4 * compiled_training(spec, 12).cost_analysis()["flops"]  # XLA counts the body of the loop of chunks once
    assert 0.9 <= costs["flops_training"] / counted <= 1.0
    one_chunk = jlstm.explain(replace(spec, remat_every=12), 32, 12, 32).data["costs"]  # XLA computes it once
    assert one_chunk["flops_training"] == costs["flops_training"] - costs["flops_forward"]


@pytest.mark.parametrize(("backend", "times"), [("auto", 1), ("xla", 2)])
def test_training_keeps_what_it_says(backend, times):
    spec = LSTM(96, return_sequences=True, backend=backend)
    if jlstm.which_backend(spec, (32, 100, 32)).backend != ("cpu" if backend == "auto" else "xla"):
        pytest.skip("the kernel does not run here")
    kept = jlstm.explain(spec, 32, 100, 32).data["costs"]["bytes_kept"]
    assert 0.75 * times <= compiled_training(spec, 100).memory_analysis().temp_size_in_bytes / kept <= 1.25 * times


def test_training_with_remat_keeps_what_it_says():
    spec = LSTM(96, backend="xla", remat_every=50)
    kept = jlstm.explain(spec, 32, 1000, 32).data["costs"]["bytes_kept"]
    copies = 2 * 4 * 32 * 1000 * 32  # of x and of its gradient, time first
    temporary = compiled_training(spec, 1000).memory_analysis().temp_size_in_bytes
    assert 0.75 * 2 <= (temporary - copies) / kept <= 1.25 * 2
    assert "twice as much, copies of x and y apart." in re.sub(r"\s+", " ", str(jlstm.explain(spec, 32, 1000, 32)))


def test_remat_keeps_less():
    plain, remat = (jlstm.explain(LSTM(8, remat_every=k), D, 1000, 2).data["costs"]["bytes_kept"] for k in (None, 25))
    # A step keeps 4 gates, cell and output of 8 units; with remat h and c of 40 steps and 25 whole steps.
    assert plain == 4 * 2 * 1000 * 48
    assert remat == 4 * 2 * (40 * 16 + 25 * 48)


def test_the_backend_is_that_of_which_backend():
    told = jlstm.explain(SPECS["stack"], D, T, B).data["backend"]
    choice = jlstm.which_backend(SPECS["stack"], (B, T, D))
    expected = (choice[0].forward, choice[0].backward, choice[1])
    paths = ("layers[0].forward", "layers[0].backward", "layers[1]")
    for line, path, made in zip(told, paths, expected, strict=True):
        assert line.startswith(f"{path}: {made}")
    assert jlstm.explain(SPECS["stack"], D).data["backend"] == []


def test_a_backend_that_cannot_serve_the_layer_is_told():
    (told,) = jlstm.explain(LSTM(6, backend="cpu", remat_every=2), D, T, B).data["backend"]
    assert told.startswith("none: backend must be")
    assert "remat_every" in told


def test_what_is_kept_has_the_dtype_of_the_state():
    kept = {
        dtype: jlstm.explain(LSTM(6, param_dtype=dtype), D, T, B).data["costs"]["bytes_kept"]
        for dtype in ("bfloat16", "float32", "float64")
    }
    assert kept["float64"] == 2 * kept["float32"] == 2 * kept["bfloat16"]
    assert "every step, in float64)" in re.sub(r"\s+", " ", str(jlstm.explain(LSTM(6, dtype="float64"), D, T, B)))


def test_sizes_of_numpy_become_plain_data():
    data = jlstm.explain(LSTM(6), np.int64(D), np.int64(T), np.int64(B)).data
    assert json.loads(json.dumps(data)) == json.loads(json.dumps(jlstm.explain(LSTM(6), D, T, B).data))
