"""plot_gates: what is drawn is what inspect recorded."""

import functools
import subprocess
import sys

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm import LSTM, Bidirectional, LSTMTrace, Stack, inspect, plot_gates

B, T, D, N = 2, 6, 3, 4
LENGTHS = (6, 4)
ROWS = {"i": "input gate", "f": "forget gate", "g": "candidate", "o": "output gate", "c": "cell", "h": "output"}


@functools.cache
def recorded(layer, lengths=None):
    def run(x):
        given = None if lengths is None else jnp.array(lengths)
        return inspect(layer, layer.init(jax.random.key(0), D), layer.initial_state(B), x, lengths=given)

    return jax.jit(run)(cases.array(cases.inputs(0, B, T, D)))


def drawn(figure):
    """The heat maps of a figure by title: values [N, T], with True where there is none, and the axes."""
    return {
        axis.get_title("left"): (axis.images[0].get_array(), axis) for axis in figure.axes if axis.get_title("left")
    }


def test_every_array_of_the_row_is_drawn_as_it_is():
    trace = recorded(LSTM(N))
    panels = drawn(plot_gates(trace, row=1))
    assert list(panels) == [f"{name}: {words}" for name, words in ROWS.items()]
    for name, (values, axis) in zip(ROWS, panels.values(), strict=True):
        np.testing.assert_array_equal(values, np.asarray(getattr(trace, name))[1].T)
        assert axis.get_images()[0].get_extent() == [-0.5, T - 0.5, N - 0.5, -0.5]  # step t over t, unit 0 on top


def test_gates_are_drawn_from_closed_to_open_and_the_rest_about_zero():
    values = {"i": 0.25, "f": 3.0, "g": -2.0, "o": 0.0, "c": 5.0, "h": -0.5}  # f = 3, as relu may give
    trace = LSTMTrace(**{name: jnp.full((1, 2, 1), value) for name, value in values.items()})
    limits = [axis.images[0].get_clim() for _, axis in drawn(plot_gates(trace)).values()]
    assert limits == [(0, 1), (0, 3), (-2, 2), (0, 1), (-5, 5), (-0.5, 0.5)]


def test_layers_and_directions_have_a_column_each_by_path():
    trace = recorded(Stack((Bidirectional(LSTM(2, return_sequences=True)), LSTM(N))))
    panels = drawn(plot_gates(trace))
    paths = {"layers[0].forward": trace[0].forward, "layers[0].backward": trace[0].backward, "layers[1]": trace[1]}
    assert len(panels) == len(paths) * len(ROWS)
    for path, one in paths.items():
        for name, words in ROWS.items():
            values, _ = panels[f"{path}  {name}: {words}"]
            np.testing.assert_array_equal(values, np.asarray(getattr(one, name))[0].T)


def color(axis, value):
    """The colour in which a heat map draws a value, [red, green, blue] from 0 to 1."""
    image = axis.images[0]
    return np.asarray(image.get_cmap()(image.norm(value))[:3])


def test_gates_are_black_where_open_and_the_rest_red_above_0_and_blue_below():
    values = {"i": 0.5, "f": 0.5, "g": -2.0, "o": 0.5, "c": 5.0, "h": -0.5}
    trace = LSTMTrace(**{name: jnp.full((1, 2, 1), value) for name, value in values.items()})
    for title, (_, axis) in drawn(plot_gates(trace)).items():
        if title[0] in "ifo":
            assert color(axis, 0.0).min() > 0.98
            assert color(axis, 1.0).max() < 0.02
            continue
        limit = abs(values[title[0]])
        assert color(axis, 0.0).min() > 0.95
        (red, green, blue), (red_below, green_below, blue_below) = color(axis, limit), color(axis, -limit)
        assert red > green + 0.3
        assert red > blue + 0.2
        assert blue_below > green_below + 0.1
        assert blue_below > red_below + 0.3


def hatched(axis):
    """The cells under a hatch, as the places (unit, step) of their middles."""
    found = set()
    for patch in axis.patches:
        assert patch.get_hatch()
        (t0, n0), (t1, n1) = patch.get_xy(), (patch.get_x() + patch.get_width(), patch.get_y() + patch.get_height())
        cells = {(n, t) for t in range(T) for n in range(N) if t0 < t < t1 and n0 < n < n1}
        assert len(cells) == patch.get_width() * patch.get_height()
        assert not cells & found
        found |= cells
    return found


def test_masked_steps_are_hatched_and_said_to_be():
    trace = recorded(LSTM(N), LENGTHS)
    figure = plot_gates(trace, row=1)
    for title, (values, axis) in drawn(figure).items():
        missing = np.ma.getmaskarray(values)
        if title[0] in "ifgo":
            assert missing[:, 4:].all()
            assert not missing[:, :4].any()
            assert hatched(axis) == {(n, t) for n in range(N) for t in (4, 5)}
        else:
            np.testing.assert_array_equal(values[:, 4:], np.repeat(values[:, 3:4], 2, axis=1))
            assert not axis.patches
    assert "time step (hatched: masked, or not finite)" in {axis.get_xlabel() for axis in figure.axes}
    figure = plot_gates(trace, row=0)
    assert "time step" in {axis.get_xlabel() for axis in figure.axes}
    for axis in figure.axes:  # nor a hatch under the heat map, whose edges would show beside it
        assert not axis.patches
        assert not axis.patch.get_hatch()


@pytest.mark.parametrize("name", ["i", "g", "c"])
def test_what_is_not_finite_is_hatched_and_the_rest_drawn(name):
    values = {row: np.full((1, T, N), 0.5) for row in ROWS}
    holes = {(0, 1): np.nan, (1, 1): np.inf, (3, 1): -np.inf, (2, 4): np.nan}
    for (n, t), value in holes.items():
        values[name][0, t, n] = value
    figure = plot_gates(LSTMTrace(**values))
    for title, (found, axis) in drawn(figure).items():
        expected = set(holes) if title[0] == name else set()
        assert hatched(axis) == expected
        assert set(zip(*np.nonzero(np.ma.getmaskarray(found)), strict=True)) == expected
        assert axis.images[0].get_clim() == ((-0.5, 0.5) if title[0] in "gch" else (0, 1))
    assert "time step (hatched: masked, or not finite)" in {axis.get_xlabel() for axis in figure.axes}


def test_a_trace_with_nothing_finite_can_be_drawn():
    panels = drawn(plot_gates(LSTMTrace(**{row: np.full((1, T, N), np.nan) for row in ROWS})))
    assert all(len(hatched(axis)) == T * N for _, axis in panels.values())


def test_no_window_holds_the_figure():
    from matplotlib import pyplot as plt

    before = plt.get_fignums()
    plot_gates(recorded(LSTM(N)))
    assert plt.get_fignums() == before


def test_bfloat16_can_be_drawn():
    values, _ = drawn(plot_gates(recorded(LSTM(N, dtype="bfloat16", param_dtype="bfloat16"))))["c: cell"]
    assert np.isfinite(values).all()


def test_errors():
    trace = recorded(LSTM(N))
    with pytest.raises(TypeError, match=r"trace must be what jlstm\.inspect returns, got float32\[2, 6, 3\]"):
        plot_gates(jnp.ones((2, 6, 3)))
    with pytest.raises(TypeError, match=r"trace at layers\[1\] must be what jlstm\.inspect returns, got None"):
        plot_gates((trace, None))
    with pytest.raises(TypeError, match=r"trace must be what jlstm\.inspect returns, got \(\)"):
        plot_gates(())
    with pytest.raises(
        ValueError, match=r"trace must have arrays of shape \[B, T, N\], got layers\[0\]\.i of \[6, 4\]"
    ):
        plot_gates((jax.tree.map(lambda a: a[0], trace),))
    with pytest.raises(ValueError, match=r"trace must have one time step or more, got layers\[0\]\.i of \[2, 0, 4\]"):
        plot_gates((jax.tree.map(lambda a: a[:, :0], trace),))
    for row in (2, -1):
        with pytest.raises(ValueError, match=rf"row must be in \[0, 1\], got {row}"):
            plot_gates(trace, row=row)
    for row in (1.0, True):
        with pytest.raises(TypeError, match=rf"row must be an integer, got {row}"):
            plot_gates(trace, row=row)


WITHOUT = """
import sys
sys.modules["matplotlib"] = None
import jax.numpy as jnp, jlstm
trace = jlstm.LSTMTrace(*[jnp.ones((1, 2, 1))] * 6)
try:
    jlstm.plot_gates(trace)
except ImportError as error:
    print(error)
"""


def test_without_matplotlib_the_error_says_what_to_install():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    assert done.stdout == "plot_gates needs matplotlib, which is not installed: pip install 'jlstm[train]'\n"
