"""torch's modules and state dicts beside the specs and params that come from them, and the way back."""

import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import keras_peer as kp
import numpy as np
import pytest
from conftest import peer
from hypothesis import Phase, given, settings
from safetensors.numpy import save_file

import jlstm
from jlstm import LSTM, Bidirectional, LSTMState, Stack, Variant
from jlstm.interop import from_torch, to_torch, to_torch_cell, to_torch_state_dict

torch = peer("torch")

TITLE = "PyTorch"
TOLERANCE = 3e-5
B, T, D, N = 2, 4, 3, 4


# --- running both sides --------------------------------------------------------------------------------------------


def module(*arguments, cell=False, seed=0, **options):
    """A torch module whose weights are larger than torch draws them, so that the gates are not near 1/2."""
    torch.manual_seed(seed)
    made = (torch.nn.LSTMCell if cell else torch.nn.LSTM)(*arguments, **options)
    with torch.no_grad():
        for p in made.parameters():
            p.uniform_(-1, 1)
    return made.eval()


def states(tree):
    """Our final states as (h, c), each [layers * directions, B, ...], as torch stacks them."""
    flat = jax.tree.leaves(tree, is_leaf=lambda s: isinstance(s, LSTMState))
    return jnp.stack([s.h for s in flat]), jnp.stack([s.c for s in flat])


def unstacked(spec, h, c):
    """The reverse: torch's states as ours."""
    leaves = iter([LSTMState(h=a, c=b) for a, b in zip(h, c, strict=True)])
    shapes = jax.eval_shape(lambda: spec.initial_state(B))
    return jax.tree.map(lambda _: next(leaves), shapes, is_leaf=lambda s: isinstance(s, LSTMState))


def tensors(*arrays):
    return [torch.from_numpy(np.array(a)).requires_grad_() for a in arrays]


def run_torch(made, x, h, c, lengths=None):
    """Outputs [B, T, ...] and final states of an nn.LSTM, or those of an LSTMCell called T times."""
    if isinstance(made, torch.nn.LSTMCell):
        h, c, outputs = h[0], c[0], []
        for t in range(x.shape[1]):
            h, c = made(x[:, t], (h, c))
            outputs.append(h)
        return torch.stack(outputs, 1), h[None], c[None]
    x = x if made.batch_first else x.transpose(0, 1)
    if lengths is not None:
        x = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, made.batch_first, enforce_sorted=False)
    with warnings.catch_warnings(action="ignore"):  # of oneDNN, about projections
        y, (h, c) = made(x, (h, c))
    if lengths is not None:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, made.batch_first, total_length=T)
    return y if made.batch_first else y.transpose(0, 1), h, c


def error(made, spec, params, lengths=None, gradients=True):
    """The worst difference of outputs, final states and gradients (of weights, states and x)."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(0, 1, (B, T, D)), jnp.float32)
    h, c = states(spec.initial_state(B))
    h, c = (jnp.asarray(rng.normal(0, 0.5, a.shape), jnp.float32) for a in (h, c))

    def ours(params, x, h, c):
        final, y = spec.apply(params, unstacked(spec, h, c), x, lengths=None if lengths is None else jnp.array(lengths))
        return y, *states(final)

    theirs = tensors(x, h, c)
    expected = run_torch(made, *theirs, lengths)
    if not gradients:
        return kp.output_error(ours(params, x, h, c), [a.detach() for a in expected])
    cotangents = [rng.normal(0, 1, a.shape).astype("float32") for a in expected]
    sum((a * torch.from_numpy(g)).sum() for a, g in zip(expected, cotangents, strict=True)).backward()
    made_of = {name: p.grad.numpy() for name, p in made.named_parameters()}

    @jax.jit
    def both(*arguments):
        got, pull = jax.vjp(ours, *arguments)
        return got, pull(tuple(jnp.asarray(g) for g in cotangents))

    got, (d_params, *d_inputs) = both(params, x, h, c)
    # The gradients of our params, laid out as torch's weights; that of the sum of two biases is that of each.
    d_weights = to_torch_state_dict(spec, d_params)
    d_weights |= {name: d_weights[name.replace("bias_hh", "bias_ih")] for name in d_weights if "bias_hh" in name}
    if isinstance(made, torch.nn.LSTMCell):
        d_weights = {name.removesuffix("_l0"): a for name, a in d_weights.items()}
    assert set(d_weights) == set(made_of)
    return max(
        kp.output_error(got, [a.detach() for a in expected]),
        kp.gradient_error([d_weights[k] for k in made_of], list(made_of.values())),
        kp.gradient_error(d_inputs, [a.grad for a in theirs]),
    )


def from_error(*arguments, lengths=None, **options):
    def run():
        made = module(*arguments, **options)
        return error(made, *from_torch(made), lengths)

    return run


def to_error(spec, make=to_torch):
    def run():
        params = drawn(spec)
        return error(make(spec, params), spec, params)

    return run


def drawn(spec, seed=0):
    """Params of all kinds of sizes, a projection's included."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: spec.init(key, D), jax.random.key(0))
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.7, a.shape), a.dtype), shapes)


PLAIN = LSTM(N, return_sequences=True)
P2 = replace(PLAIN, variant=Variant(projection=2))
BOTH = Bidirectional(PLAIN)

FEATURES = {
    ("from", "LSTM"): from_error(D, N, batch_first=True),
    ("from", "batch_first=False"): from_error(D, N),
    ("from", "num_layers"): from_error(D, N, 3),
    ("from", "bidirectional"): from_error(D, N, bidirectional=True),
    ("from", "bias=False"): from_error(D, N, bias=False),
    ("from", "proj_size"): from_error(D, N, proj_size=2),
    ("from", "dropout between layers"): from_error(D, N, 2, dropout=0.3),
    ("from", "all of these"): from_error(D, N, 2, bidirectional=True, proj_size=2, bias=False, dropout=0.3),
    ("from", "PackedSequence"): from_error(D, N, 2, bidirectional=True, lengths=[4, 2]),
    ("from", "LSTMCell"): from_error(D, N, cell=True),
    ("from", "LSTMCell, bias=False"): from_error(D, N, cell=True, bias=False),
    ("to", "LSTM"): to_error(PLAIN),
    ("to", "num_layers"): to_error(Stack((PLAIN, PLAIN, PLAIN))),
    ("to", "bidirectional"): to_error(BOTH),
    ("to", "bias=False"): to_error(replace(PLAIN, use_bias=False)),
    ("to", "proj_size"): to_error(P2),
    ("to", "dropout between layers"): to_error(Stack((PLAIN, PLAIN), dropout=0.3)),
    ("to", "all of these"): to_error(Stack((Bidirectional(P2), Bidirectional(P2)), dropout=0.3)),
    ("to", "LSTMCell"): to_error(PLAIN, to_torch_cell),
}


@pytest.mark.parametrize(("direction", "feature"), FEATURES)
def test_agrees(direction, feature):
    assert FEATURES[direction, feature]() <= TOLERANCE


# --- generated modules ---------------------------------------------------------------------------------------------


@settings(max_examples=25 if settings().max_examples < 200 else 200, phases=[Phase.explicit, Phase.generate])
@given(rng=st.randoms(use_true_random=True))
def test_any_module_gives_its_numbers_and_comes_back(worst, rng):
    options = {
        "num_layers": rng.choice((1, 1, 2, 3)),
        "bias": rng.random() < 0.7,
        "batch_first": rng.random() < 0.5,
        "bidirectional": rng.random() < 0.5,
        "proj_size": rng.choice((0, 0, 2)),
    }
    options["dropout"] = rng.choice((0.0, 0.3)) if options["num_layers"] > 1 else 0.0
    made = module(D, rng.choice((3, 4)), seed=rng.randrange(2**16), **options)
    lengths = None if rng.random() < 0.5 else [rng.randint(1, T) for _ in range(B)]
    spec, params = from_torch(made)
    found = error(made, spec, params, lengths, gradients=False)
    worst.append(found)
    assert found <= TOLERANCE

    again = to_torch(spec, params)
    for name in ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "proj_size", "dropout"):
        assert getattr(again, name) == getattr(made, name)
    assert again.batch_first
    assert not again.training
    assert error(again, spec, params, lengths, gradients=False) <= TOLERANCE
    assert from_torch(again)[0] == spec
    same(from_torch(again)[1], params)


@pytest.fixture(scope="module")
def worst(request):
    """The errors of all examples; the largest is printed in one line at the end."""
    errors = []
    yield errors
    if errors:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\nfrom_torch: {len(errors)} generated modules, worst output or state {max(errors):.1e}")


def same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


# --- layout and options --------------------------------------------------------------------------------------------


def test_the_layout_by_hand():
    """Rows of torch's weights are gates i, f, g, o; ours are columns; the two biases are one."""
    made = torch.nn.LSTM(1, 1)
    with torch.no_grad():
        made.weight_ih_l0[:] = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
        made.weight_hh_l0[:] = torch.tensor([[5.0], [6.0], [7.0], [8.0]])
        made.bias_ih_l0[:] = torch.tensor([1.0, 2.0, 3.0, 4.0])
        made.bias_hh_l0[:] = torch.tensor([10.0, 20.0, 30.0, 40.0])
    spec, params = from_torch(made)
    assert spec == LSTM(1, return_sequences=True, keep_order=True, zero_output_for_mask=True)
    np.testing.assert_array_equal(params.kernel, [[1, 2, 3, 4]])
    np.testing.assert_array_equal(params.recurrent_kernel, [[5, 6, 7, 8]])
    np.testing.assert_array_equal(params.bias, [11, 22, 33, 44])
    back = to_torch_state_dict(spec, params)
    np.testing.assert_array_equal(back["bias_ih_l0"], [11, 22, 33, 44])
    np.testing.assert_array_equal(back["bias_hh_l0"], np.zeros(4))


def test_dropout_between_layers_is_drawn_as_torch_draws_it():
    """In training the module that comes back drops; in eval mode, as it comes, it does not."""
    spec, params = from_torch(module(D, N, 2, dropout=0.5))
    assert spec.dropout == 0.5
    x = torch.ones(B, T, D)
    made = to_torch(spec, params)
    assert torch.equal(made(x)[0], made(x)[0])
    made.train()
    assert not torch.equal(made(x)[0], made(x)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_keep_their_dtype(dtype):
    made = module(D, N).to(dtype)
    spec, params = from_torch(made)
    assert spec.param_dtype == params.bias.dtype == str(dtype).removeprefix("torch.")
    exact = made.weight_ih_l0.detach().float().numpy().T
    np.testing.assert_array_equal(np.asarray(params.kernel, np.float32), exact)
    both = made.bias_ih_l0.detach().float() + made.bias_hh_l0.detach().float()  # rounded once
    np.testing.assert_array_equal(np.asarray(params.bias, np.float32), both.to(dtype).float().numpy())
    again = to_torch(spec, params)
    assert again.weight_ih_l0.dtype == dtype
    same(from_torch(again)[1], params)


def test_doubles_want_64_bits():
    made = module(D, N).double()
    with pytest.raises(ValueError, match=r"^param_dtype must be at most 32 bits wide"):
        from_torch(made)
    with jax.enable_x64(True):
        spec, params = from_torch(made)
        assert params.kernel.dtype == spec.param_dtype == "float64"
        same(from_torch(to_torch(spec, params))[1], params)


# --- state dicts ---------------------------------------------------------------------------------------------------


def larger():
    """A module with two LSTMs and more in it."""
    made = torch.nn.Module()
    made.encoder = torch.nn.Module()
    made.encoder.lstm = module(D, N, 2, bidirectional=True)
    made.decoder = module(D, N, cell=True)
    made.top = torch.nn.Linear(N, 1)
    return made


def test_a_part_of_a_state_dict_by_its_prefix(tmp_path):
    made = larger()
    torch.save(made.state_dict(), tmp_path / "a.pt")
    save_file({k: v.numpy() for k, v in made.state_dict().items()}, tmp_path / "a.safetensors")
    expected, cell = from_torch(made.encoder.lstm), from_torch(made.decoder)
    arrays = {k: v.numpy() for k, v in made.state_dict().items()}
    for source in (made.state_dict(), arrays, tmp_path / "a.pt", str(tmp_path / "a.safetensors")):
        spec, params = from_torch(source, prefix="encoder.lstm.")
        assert spec == expected[0]
        same(params, expected[1])
        spec, params = from_torch(source, prefix="decoder.")
        assert spec == cell[0]
        same(params, cell[1])
        with pytest.raises(ValueError, match=r"prefix must be one of 'decoder.', 'encoder.lstm.', got ''"):
            from_torch(source)
        with pytest.raises(ValueError, match=r"got 'lstm.'"):
            from_torch(source, prefix="lstm.")


def test_a_state_dict_that_safetensors_holds(tmp_path):
    spec = Stack((Bidirectional(P2), Bidirectional(P2)))
    params = drawn(spec)
    save_file(to_torch_state_dict(spec, params), tmp_path / "a.safetensors")
    program = f"""
import sys
from jlstm.interop import from_torch
spec, params = from_torch({str(tmp_path / "a.safetensors")!r})
assert not {{"torch", "keras", "flax"}} & set(sys.modules)
print(float(params[1].backward.projection.sum()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(float(done.stdout), params[1].backward.projection.sum(), rtol=1e-6)
    same(from_torch(tmp_path / "a.safetensors")[1], params)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    save_file(to_torch_state_dict(spec, half), tmp_path / "half.safetensors")
    same(from_torch(tmp_path / "half.safetensors")[1], half)


def changed(**changes):
    """The state dict of a two-layer module, some of its entries replaced, or taken out by None."""
    made = {k: v.numpy() for k, v in module(D, N, 2).state_dict().items()}
    made |= {name.replace("__", "."): value for name, value in changes.items()}
    return {k: v for k, v in made.items() if v is not None}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: changed(bias_hh_l1=None), r"got none of \['bias_hh_l1'\]"),
        (lambda: changed(weight_ih_l1=None, weight_hh_l1=None), r"got none of \['weight_hh_l1', 'weight_ih_l1'\]"),
        (lambda: changed(weight_ih_l9=np.zeros((16, 4), "f4")), r"but \['weight_ih_l9'\]"),
        (lambda: changed(weight_ih_l1_reverse=np.zeros((16, 4), "f4")), "got none of .*bias_hh_l0_reverse"),
        (lambda: changed(weight_hr_l0=np.zeros((2, 4), "f4")), "got none of .*weight_hr_l1"),
        (lambda: changed(top__weight=np.zeros(3, "f4")), r"the names of an LSTM .* alone, got top.weight"),
        (
            lambda: changed(weight_ih_l1=np.zeros((16, 5), "f4")),
            r"^weight_ih_l1 must have shape \[16, 4\], got \[16, 5\]",
        ),
        (
            lambda: changed(weight_hh_l1=np.zeros((12, 4), "f4")),
            r"^weight_hh_l1 must have shape \[16, 4\], got \[12, 4\]",
        ),
        (lambda: changed(bias_ih_l0=np.zeros(15, "f4")), r"^bias_ih_l0 must have shape \[16\], got \[15\]"),
        (lambda: changed(bias_ih_l0=np.zeros(16)), "^state dict must have one floating dtype, got float32, float64"),
        (lambda: changed(bias_ih_l0=3), "^bias_ih_l0 must be a tensor, got 3"),
        (lambda: torch.nn.GRU(D, N).state_dict(), r"^weight_hh_l0 must have shape \[4N, N\], got \[12, 4\]"),
        (lambda: torch.nn.RNN(D, N).state_dict(), r"^weight_hh_l0 must have shape \[4N, N\], got \[4, 4\]"),
        (lambda: {}, "got none"),
        (lambda: torch.nn.LSTM(D, N, device="meta").state_dict(), "^weight_ih_l0 must be a dense tensor"),
        (
            lambda: {k: torch.zeros(()).expand(v.shape) for k, v in torch.nn.LSTM(D, N).state_dict().items()},
            "^weight_ih_l0 must hold all of its numbers",
        ),
    ],
)
def test_state_dicts_that_are_none_of_an_lstm(source, message):
    with pytest.raises(ValueError, match=message):
        from_torch(source())


def test_modules_that_are_no_lstm():
    with pytest.raises(
        TypeError, match=r"^source must be a torch.nn.LSTM or LSTMCell, .* got GRU.*pass state_dict\(\)"
    ):
        from_torch(torch.nn.GRU(D, N))
    with pytest.raises(TypeError, match=r"^source must be"):
        from_torch(type("Mine", (torch.nn.LSTM,), {})(D, N))
    with pytest.raises(ValueError, match=r"^prefix must be empty for a module"):
        from_torch(torch.nn.LSTM(D, N), prefix="a.")


class Runs:
    """What a pickle may do when it is read."""

    def __reduce__(self):
        return print, ("it ran",)


def test_files_that_are_none(tmp_path, capsys):
    for name in ("a.pt", "a.safetensors"):
        path = tmp_path / name
        with pytest.raises(FileNotFoundError):
            from_torch(path)
        made = changed()
        save_file(made, path) if "safe" in name else torch.save({k: torch.tensor(v) for k, v in made.items()}, path)
        same(from_torch(path)[1], from_torch(made)[1])
        whole = path.read_bytes()
        rng = np.random.default_rng(0)
        for part in (0, 7, 100, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:part])
            with pytest.raises(ValueError, match=name):
                from_torch(path)
        for _ in range(100):  # read, or refused, whatever is wrong
            broken = bytearray(whole)
            for position in rng.integers(0, len(broken), 5):
                broken[position] = rng.integers(256)
            path.write_bytes(broken)
            try:
                from_torch(path)
            except ValueError as found:
                assert name in str(found)  # noqa: PT017
    path = tmp_path / "a.pt"
    for source in (module(D, N), {"weight_ih_l0": Runs()}):
        torch.save(source, path)
        with pytest.raises(ValueError, match=r"with weights_only=True, got one where UnpicklingError"):
            from_torch(path)
    assert not capsys.readouterr().out
    torch.save([1], path)
    with pytest.raises(ValueError, match=r"must hold a state dict, got list"):
        from_torch(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10**6))
    with pytest.raises(ValueError, match=r"data/0 is compressed"):
        from_torch(path)
    with pytest.raises(ValueError, match=r"^path must end in .pt, .pth, .bin or .safetensors"):
        from_torch(__file__)


# --- to torch ------------------------------------------------------------------------------------------------------


def test_a_stack_in_a_stack_comes_as_layers():
    spec = Stack((Stack((PLAIN, PLAIN), dropout=0.3), PLAIN), dropout=0.3)
    params = drawn(spec)
    made = to_torch(spec, params)
    assert (made.num_layers, made.dropout) == (3, 0.3)
    assert error(made, spec, params, gradients=False) <= TOLERANCE
    with pytest.raises(
        ValueError, match=r"^dropout must be one rate between all layers for torch.nn.LSTM, got \[0.0, 0.3"
    ):
        to_torch(replace(spec, dropout=0.0), params)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (LSTM(N), r"^return_sequences must be True for torch.nn.LSTM, got False"),
        (replace(PLAIN, activation="relu"), "^activation must be 'tanh'"),
        (replace(PLAIN, recurrent_activation="hard_sigmoid"), "^recurrent_activation must be 'sigmoid'"),
        (replace(PLAIN, go_backwards=True, keep_order=True), "^go_backwards must be False"),
        (replace(PLAIN, dropout=0.1), r"^dropout must be 0.0"),
        (replace(PLAIN, recurrent_dropout=0.1), r"^recurrent_dropout must be 0.0"),
        (replace(PLAIN, kernel_regularizer="l2"), "^kernel_regularizer must be None"),
        (replace(PLAIN, bias_constraint="non_neg"), "^bias_constraint must be None"),
        (replace(PLAIN, dtype="bfloat16"), "^dtype must be None or float32, the dtype of the params"),
        (replace(PLAIN, variant=Variant(peephole=True)), r"^variant.peephole must be False"),
        (replace(PLAIN, variant=Variant(coupled="input")), r"^variant.coupled must be None"),
        (replace(PLAIN, variant=Variant(preact_clip=1.0)), r"^variant.preact_clip must be None"),
        (replace(PLAIN, variant=Variant(output_activation="relu")), r"^variant.output_activation must be None"),
        (replace(PLAIN, variant=Variant(forget_gate=False)), r"^variant.forget_gate must be True"),
        (replace(BOTH, merge_mode="sum"), "^merge_mode must be 'concat'"),
        (Stack((PLAIN, BOTH)), "^layers must be of one kind for torch.nn.LSTM, got 'Bidirectional and LSTM'"),
        (Stack((PLAIN, replace(PLAIN, units=3))), "^units must be the same in all layers and directions"),
        (
            Bidirectional(PLAIN, replace(PLAIN, go_backwards=True, use_bias=False)),
            "^use_bias must be the same in all layers and directions",
        ),
        (Stack((PLAIN, P2)), r"^variant.projection must be the same"),
    ],
)
def test_what_torch_cannot_express(spec, message):
    with pytest.raises(ValueError, match=message):
        to_torch(spec, drawn(spec))
    with pytest.raises(ValueError, match=message):
        to_torch_state_dict(spec, drawn(spec))


def test_params_that_do_not_fit():
    with pytest.raises(TypeError, match=r"^params must be a tuple of 2, one entry a layer"):
        to_torch(Stack((PLAIN, PLAIN)), drawn(PLAIN))
    with pytest.raises(TypeError, match=r"^params must be Directions"):
        to_torch(BOTH, drawn(PLAIN))
    with pytest.raises(ValueError, match=r"^params must be of an input of width 4 in layer 1, got \(3, 16\)"):
        to_torch(Stack((PLAIN, PLAIN)), (drawn(PLAIN), drawn(PLAIN)))
    with pytest.raises(ValueError, match=r"^variant.projection must be None for torch.nn.LSTMCell, got 2"):
        to_torch_cell(P2, drawn(P2))
    same(from_torch(to_torch_cell(LSTM(N), drawn(LSTM(N))))[1], drawn(LSTM(N)))  # a cell returns no sequences


def test_options_that_change_no_number_are_left_behind():
    spec = replace(PLAIN, kernel_initializer=jlstm.TorchUniform(N), unroll=True, implementation=1, backend="xla")
    spec = replace(spec, zero_output_for_mask=True, remat_every=2, variant=Variant(output_activation="tanh"))
    made = to_torch(spec, drawn(spec))
    assert error(made, spec, drawn(spec), gradients=False) <= TOLERANCE
