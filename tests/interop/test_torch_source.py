"""State dicts and files of torch, whole, broken or of others; what to_torch refuses."""

import subprocess
import sys
import zipfile
from dataclasses import replace

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import peer
from safetensors.numpy import save_file
from test_from_torch import BOTH, P2, PLAIN, TOLERANCE, D, N, drawn, error, module

import jlstm
from jlstm import LSTM, Bidirectional, Stack, Variant
from jlstm.interop import from_torch, to_torch, to_torch_cell, to_torch_state_dict

torch = peer("torch")


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
        cases.same_bits(params, expected[1])
        spec, params = from_torch(source, prefix="decoder.")
        assert spec == cell[0]
        cases.same_bits(params, cell[1])
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
    cases.same_bits(from_torch(tmp_path / "a.safetensors")[1], params)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    save_file(to_torch_state_dict(spec, half), tmp_path / "half.safetensors")
    cases.same_bits(from_torch(tmp_path / "half.safetensors")[1], half)


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
        (
            lambda: {"epoch": 3, "state_dict": {"a.weight_ih_l0": 0}, "optimizer": {"state": {}}},
            r"^source must be a state dict, got one that holds it as 'state_dict': pass that entry",
        ),
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
    for source in (torch.nn.LSTM(D, N), changed(), "a.pt"):
        with pytest.raises(TypeError, match=r"^prefix must be str, got None"):
            from_torch(source, prefix=None)


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
        cases.same_bits(from_torch(path)[1], from_torch(made)[1])
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
    torch.save({"epoch": 3, "model": module(D, N).state_dict()}, path)
    with pytest.raises(
        ValueError, match=r"a.pt: source .*; of a file, torch.load\(path, weights_only=True\)\['model'\]"
    ):
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
    assert error(made, spec, params) <= TOLERANCE
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
        *(
            (
                replace(PLAIN, variant=Variant(projection=P)),
                f"^variant.projection must be less than 4, the units, for torch.nn.LSTM, got {P}",
            )
            for P in (4, 5)
        ),
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
    cases.same_bits(
        from_torch(to_torch_cell(LSTM(N), drawn(LSTM(N))))[1], drawn(LSTM(N))
    )  # a cell returns no sequences


def test_options_that_change_no_number_are_left_behind():
    spec = replace(PLAIN, kernel_initializer=jlstm.TorchUniform(N), unroll=True, implementation=1, backend="xla")
    spec = replace(spec, zero_output_for_mask=True, remat_every=2, variant=Variant(output_activation="tanh"))
    made = to_torch(spec, drawn(spec))
    assert error(made, spec, drawn(spec)) <= TOLERANCE
