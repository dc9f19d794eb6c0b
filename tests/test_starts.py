"""What explain says that weights start from, against what init draws."""

import math
import re

import jax
import numpy as np
import pytest

from jlstm import LSTM, Chrono, Constant, Identity, Orthogonal, TorchUniform, Variant
from jlstm.facts import Layer
from jlstm.initializers import RandomNormal, RandomUniform, TruncatedNormal, VarianceScaling
from jlstm.starts import starts_of

N, D = 64, 96  # the kernel has 24,576 numbers, the recurrent kernel 16,384
SPREAD = 0.02  # of a standard deviation from so many: its own is 0.5 %


def told(spec, weight="kernel", input_size=D):
    return starts_of(Layer("", spec, input_size))[weight][1]


def drawn(spec, weight="kernel", input_size=D):
    return np.asarray(getattr(spec.init(jax.random.key(0), input_size), weight), "float64")


def value(formula):
    """A formula of explain's, such as √(6/(D + 4N)), in numbers."""
    text = formula.replace("√", "math.sqrt").replace("2N", "2*N").replace("4N", "4*N")
    return eval(text, {"math": math, "N": N, "D": D})


@pytest.mark.parametrize(
    "initializer",
    ["glorot_uniform", "he_uniform", "lecun_uniform", VarianceScaling(0.5, "fan_out", "uniform"), TorchUniform(N)],
)
def test_uniform_weights_fill_the_interval(initializer):
    spec = LSTM(N, kernel_initializer=initializer)
    text = told(spec)
    *formulas, limit = re.findall(r"±([^=]+?)(?: =|$)", text)
    largest = np.abs(drawn(spec)).max()
    assert 0.999 * float(limit) < largest <= 1.001 * float(limit)  # it is told to four digits
    for formula in formulas:
        if "√" in formula and "/√" not in formula:
            assert value(formula) == pytest.approx(float(limit), rel=1e-3)


@pytest.mark.parametrize(
    ("initializer", "cut"),
    [
        ("glorot_normal", 2.2737),  # twice the standard deviation before the cut, which is 0.8796 of it afterwards
        ("he_normal", 2.2737),
        ("lecun_normal", 2.2737),
        (VarianceScaling(2.0, "fan_avg", "untruncated_normal"), None),
    ],
)
def test_normal_weights_have_the_standard_deviation(initializer, cut):
    spec = LSTM(N, kernel_initializer=initializer)
    text, weights = told(spec), drawn(spec)
    formula, numbers, deviation = re.findall(r"deviation (\S.*?) = (\S.*?) = ([\d.]+)", text)[0]
    assert weights.std() == pytest.approx(float(deviation), rel=SPREAD)
    assert value(formula) == pytest.approx(float(deviation), rel=1e-3)
    assert value(numbers) == pytest.approx(float(deviation), rel=1e-3)
    assert ("cut at about 2.27 of them" in text) == (cut is not None)
    if cut:
        assert np.abs(weights).max() <= cut * float(deviation) * 1.001
    else:
        assert np.abs(weights).max() > 3 * weights.std()


def test_numbers_worked_by_hand():
    # √(6/(2 + 4·3)) = √(3/7); √(2/2) = 1; of the recurrent kernel [3, 12] fan in 3
    assert told(LSTM(3), input_size=2).endswith(f"= ±{(3 / 7) ** 0.5:.4f}")
    assert " = 1," in told(LSTM(3, kernel_initializer="he_normal"), input_size=2)
    assert told(LSTM(3, recurrent_initializer="lecun_uniform"), "recurrent_kernel", 2).endswith("±√(3/3) = ±1")


@pytest.mark.parametrize(
    ("initializer", "text", "low", "high"),
    [
        (RandomNormal(0.5, 0.1), "normal, mean 0.5, standard deviation 0.1", 0.5 - 0.39, 0.5 + 0.39),  # 3.9 of them
        (TruncatedNormal(0.0, 0.1), "normal, mean 0, standard deviation 0.1, cut at 0 ± 0.2", -0.2, 0.2),
        (RandomUniform(-0.25, 0.75), "uniform from -0.25 to 0.75", -0.25, 0.75),
        (Constant(0.25), "0.25 everywhere", 0.25, 0.25),
        ("ones", "ones", 1, 1),
    ],
)
def test_values_that_no_shape_changes(initializer, text, low, high):
    spec = LSTM(N, kernel_initializer=initializer)
    assert told(spec) == text
    ends = np.quantile(drawn(spec), [0.5e-4, 1 - 0.5e-4])  # where a normal one reaches 3.9 standard deviations
    np.testing.assert_allclose(ends, [low, high], atol=0.06 * (high - low))


@pytest.mark.parametrize(
    ("spec", "weight", "words", "by_rows"),
    [
        (LSTM(4), "recurrent_kernel", "its 4 rows orthonormal: of length 1, at right angles", True),
        (LSTM(4, recurrent_initializer=Orthogonal(0.5)), "recurrent_kernel", "its 4 rows orthonormal: of length 0.5, ",
         True),
        (LSTM(2, kernel_initializer="orthogonal"), "kernel", "its 8 columns orthonormal: of length 1", False),
        (LSTM(1), "recurrent_kernel", "one row: of length 1", True),
    ],
)  # fmt: skip
def test_orthogonal_rows_or_columns(spec, weight, words, by_rows):
    assert told(spec, weight, 12).startswith(words)
    w = drawn(spec, weight, 12)
    w = w if by_rows else w.T
    length = float(re.findall(r"length ([\d.]+)", words)[0])
    np.testing.assert_allclose(w @ w.T, length**2 * np.eye(len(w)), atol=1e-6)


def test_identity():
    spec = LSTM(3, recurrent_initializer=Identity(0.5))
    assert told(spec, "recurrent_kernel") == "0.5 where row and column have the same number, zeros elsewhere"
    np.testing.assert_array_equal(drawn(spec, "recurrent_kernel"), 0.5 * np.eye(3, 12))


def test_the_bias_and_its_forget_slice():
    assert told(LSTM(N), "bias") == "zeros; the slice of f, the forget gate, exactly 1 (unit_forget_bias)"
    assert told(LSTM(N, unit_forget_bias=False), "bias") == "zeros"
    spec = LSTM(N, bias_initializer="lecun_uniform")
    text, bias = told(spec, "bias"), drawn(spec, "bias").reshape(4, N)
    # in pieces, as Keras: the slice of i by itself has fan in N, those of g and o together 2N
    assert f"in the slice of i uniform within ±√(3/N) = ±√(3/{N})" in text
    assert f"in those of g and o uniform within ±√(3/(2N)) = ±√(3/{2 * N})" in text
    assert (3 / (2 * N)) ** 0.5 < np.abs(bias[0]).max() <= (3 / N) ** 0.5
    assert np.abs(bias[2:]).max() <= (3 / (2 * N)) ** 0.5
    assert (bias[1] == 1).all()


def test_chrono():
    spec = LSTM(N, bias_initializer=Chrono(50))
    text = "in the slice of f log U[1, 49], in that of i its negative; in those of g and o zeros"
    assert told(spec, "bias") == text
    bias = drawn(spec, "bias").reshape(4, N)
    np.testing.assert_array_equal(bias[0], -bias[1])
    assert bias[1].min() >= 0
    assert math.log(40) < bias[1].max() <= math.log(49)
    assert not bias[2:].any()


def test_parts_of_a_variant():
    spec = LSTM(N, variant=Variant(projection=16, peephole=True))
    assert told(spec, "peephole") == "zeros: the plain cell"
    assert not drawn(spec, "peephole").any()
    assert told(spec, "projection") == f"uniform within ±√(6/(N + P)) = ±√(6/({N} + 16)) = ±{(6 / 80) ** 0.5:.4f}"
    assert 0.99 * (6 / 80) ** 0.5 < np.abs(drawn(spec, "projection")).max() <= (6 / 80) ** 0.5


def test_a_function_of_ones_own():
    def start(key, shape, dtype):
        return np.zeros(shape, dtype)

    made = starts_of(Layer("", LSTM(3, kernel_initializer=start), 2))
    assert made["kernel"] == ("start", "what start gives")
    made = starts_of(Layer("", LSTM(3, kernel_initializer=lambda *a: start(*a)), 2))
    assert made["kernel"] == ("<lambda>", "what your own function gives")
