"""torch's modules and state dicts beside the specs and params that come from them, and the way back."""

import warnings
from dataclasses import replace
from functools import partial

import cases
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import keras_peer as kp
import numpy as np
import pytest
from conftest import peer
from hypothesis import Phase, given, settings

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


compiled = partial(jax.jit, compiler_options=kp.QUICKLY_COMPILED)


def error(made, spec, params, lengths=None):
    """The worst difference of outputs, final states and gradients (of weights, states and x)."""
    x, h, c = inputs(spec)
    theirs = tensors(x, h, c)
    expected = run_torch(made, *theirs, lengths)
    rng = np.random.default_rng(2)
    cotangents = [rng.normal(0, 1, a.shape).astype("float32") for a in expected]
    sum((a * torch.from_numpy(g)).sum() for a, g in zip(expected, cotangents, strict=True)).backward()
    made_of = {name: p.grad.numpy() for name, p in made.named_parameters()}

    @compiled
    def both(*arguments):
        got, pull = jax.vjp(ours(spec, lengths), *arguments)
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


def inputs(spec):
    """x [B, T, D], and h and c as torch stacks them."""
    rng = np.random.default_rng(1)
    shapes = [(B, T, D), *(a.shape for a in states(spec.initial_state(B)))]
    return [jnp.asarray(rng.normal(0, scale, s), jnp.float32) for s, scale in zip(shapes, (1, 0.5, 0.5), strict=True)]


def ours(spec, lengths):
    """A spec as a function of params and such inputs, with such results."""
    lengths = None if lengths is None else jnp.array(lengths)

    def run(params, x, h, c):
        final, y = spec.apply(params, unstacked(spec, h, c), x, lengths=lengths)
        return y, *states(final)

    return run


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
    ("from", "layers"): from_error(D, N, 3),
    ("from", "bidirectional"): from_error(D, N, bidirectional=True),
    ("from", "no bias"): from_error(D, N, bias=False),
    ("from", "projection"): from_error(D, N, proj_size=2),
    ("from", "layers, dropout between"): from_error(D, N, 2, dropout=0.3),
    ("from", "layers, bidirectional, projection"): from_error(
        D, N, 2, bidirectional=True, proj_size=2, bias=False, dropout=0.3
    ),
    ("from", "layers, bidirectional, lengths"): from_error(D, N, 2, bidirectional=True, lengths=[4, 2]),
    ("from", "LSTMCell"): from_error(D, N, cell=True),
    ("from", "LSTMCell, no bias"): from_error(D, N, cell=True, bias=False),
    ("to", "LSTM"): to_error(PLAIN),
    ("to", "layers"): to_error(Stack((PLAIN, PLAIN, PLAIN))),
    ("to", "bidirectional"): to_error(BOTH),
    ("to", "no bias"): to_error(replace(PLAIN, use_bias=False)),
    ("to", "projection"): to_error(P2),
    ("to", "layers, dropout between"): to_error(Stack((PLAIN, PLAIN), dropout=0.3)),
    ("to", "layers, bidirectional, projection"): to_error(Stack((Bidirectional(P2), Bidirectional(P2)), dropout=0.3)),
    ("to", "LSTMCell"): to_error(PLAIN, to_torch_cell),
}


@pytest.mark.parametrize(("direction", "feature"), FEATURES)
def test_agrees(direction, feature):
    assert FEATURES[direction, feature]() <= TOLERANCE


# --- generated modules ---------------------------------------------------------------------------------------------


@settings(max_examples=12 if settings().max_examples < 200 else 200, phases=[Phase.explicit, Phase.generate])
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
    given = inputs(spec)
    got = compiled(ours(spec, lengths))(params, *given)

    def difference(lstm):
        return kp.output_error(got, [a.detach() for a in run_torch(lstm, *tensors(*given), lengths)])

    found = difference(made)
    worst.append(found)
    assert found <= TOLERANCE

    again = to_torch(spec, params)
    for name in ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "proj_size", "dropout"):
        assert getattr(again, name) == getattr(made, name)
    assert again.batch_first
    assert not again.training
    assert difference(again) <= TOLERANCE
    assert from_torch(again)[0] == spec
    cases.same_bits(from_torch(again)[1], params)


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
    cases.same_bits(from_torch(again)[1], params)


def test_doubles_want_64_bits():
    made = module(D, N).double()
    with pytest.raises(ValueError, match=r"^param_dtype must be at most 32 bits wide"):
        from_torch(made)
    with jax.enable_x64(True):
        spec, params = from_torch(made)
        assert params.kernel.dtype == spec.param_dtype == "float64"
        cases.same_bits(from_torch(to_torch(spec, params))[1], params)
