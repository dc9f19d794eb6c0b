"""What a run leaves: verdicts over seeds, the table, the weights, a page that needs nothing else."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
import safetensors
import toy
from toy import run, write_config

import jlstm
from experiments import plots, report, results, scoring, steps, train
from experiments.config import Target, load
from experiments.model import build


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run of the toy, with a target: (directory, config)."""
    folder = tmp_path_factory.mktemp("report")
    more = '[model.lstm]\nbias_initializer = {name = "Chrono", max_steps = 9}\n'
    path = write_config(folder, more + '[target]\nmetric = "mse"\nvalue = 9.0\n')
    assert run("train", path, "--out", folder / "out")[0] == 0
    return folder / "out", load(path).base


def evaluations(*rows):
    return [{"step": 10 * (n + 1), "loss": 0.0, "losses": [], "mse": list(row)} for n, row in enumerate(rows)]


def with_target(config, **changes):
    train = dataclasses.replace(config.train, steps=10)  # `evaluations` has one each 10 steps: the run is finished
    return dataclasses.replace(config, train=train, target=Target("mse", 0.5, **changes))


def test_success_counts_from_the_evaluation_after_which_it_holds(done):
    config = with_target(done[1])  # 2 seeds, 4 sequences a step
    lines = evaluations((0.4, 0.9), (0.6, 0.4), (0.4, 0.3), (0.3, None))
    assert [results.first_success(config, lines, seed) for seed in (0, 1)] == [30, None]
    target = results.summarise(config, lines, {}, 1.0)["target"]
    assert (target["met"], target["seeds"], target["sequences"]) == (False, [True, False], [120, None])


@pytest.mark.parametrize(
    ("changes", "met"),
    [({}, False), ({"seeds": 0.5}, True), ({"seeds": 0.5, "max_sequences": 119}, False),
     ({"seeds": 0.5, "max_sequences": 120}, True), ({"direction": "above", "seeds": 0.5}, True)],
)  # fmt: skip
def test_a_target_holds_a_share_of_the_seeds_to_value_and_sequences(done, changes, met):
    lines = evaluations((0.6, 0.9), (0.6, 0.9), (0.4, 0.9))
    config = with_target(done[1], **changes)
    assert results.summarise(config, lines, {}, 1.0)["target"]["met"] is met


@pytest.mark.parametrize(
    ("changes", "met"),
    [({"at_most": 0.5}, True), ({"at_most": 0.49}, False), ({"at_most": 0.0, "max_sequences": 79}, True),
     ({"seeds": 0.0}, None)],
)  # fmt: skip
def test_what_should_fail_may_be_met_by_few(done, changes, met):
    lines = evaluations((0.6, 0.9), (0.4, 0.9))  # one of two seeds, from 80 sequences on
    config = with_target(done[1], **changes)
    target = results.summarise(config, lines, {}, 1.0)["target"]
    assert (target["met"], target["seeds"]) == (met, [changes.get("max_sequences") is None, False])


def test_success_that_stops_wants_all_seeds_where_it_is_only_reported(done):
    config = with_target(done[1], seeds=0.0)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, stop_after=1))
    assert not results.succeeded(config, evaluations((0.4, 0.9)))
    assert results.succeeded(config, evaluations((0.9, 0.9), (0.4, 0.4)))
    assert not results.succeeded(config, evaluations((0.4, 0.4), (0.4, None)))


def test_a_target_may_be_a_final_figure(done):
    config = dataclasses.replace(with_target(done[1]), target=Target("ratio", 1.0))
    summary = results.summarise(config, evaluations((1.0, 1.0)), {"ratio": 0.9, "MSE/a": 1.0, "MSE/b": 2.0}, 1.0)
    assert summary["target"]["met"]
    assert results.final_rows(summary) == [("", "a", "b"), ("MSE", "1", "2")]
    assert not results.met({"": results.summarise(config, evaluations((1.0, 1.0)), {"ratio": 1.1}, 1.0)})
    reported = dataclasses.replace(config, target=Target("ratio", 1.0, seeds=0.0))
    assert results.met({"": results.summarise(reported, evaluations((1.0, 1.0)), {"ratio": 1.1}, 1.0)})


def test_a_run_stopped_early_has_met_nothing(done):
    config = dataclasses.replace(with_target(done[1]), train=dataclasses.replace(done[1].train, steps=30))
    summary = results.summarise(config, evaluations((0.1, 0.1), (0.1, 0.1)), {}, 1.0)
    assert not results.met({"": summary})
    assert results.verdicts({"": config}, {"": summary}) == [
        "target mse below 0.5 for 100% of the seeds: not finished, at step 20 of 30"
    ]


def test_the_table_gives_median_range_baseline_rate_and_sequences(done):
    config = with_target(done[1], seeds=0.5)
    summary = results.summarise(config, evaluations((0.1, 0.3)), {}, 1.0)
    assert results.rows({"": config}, {"": summary}) == [
        ("", "mse", "0.2 (0.1 to 0.3)", "0.3333", "below 0.5", "2 of 2", "40 (40 to 40)")
    ]
    assert results.verdicts({"": config}, {"": summary}) == [
        "target mse below 0.5 for 50% of the seeds: met (2 of 2 seeds)"
    ]


def test_the_weights_carry_their_spec_and_give_the_metrics(done):
    out, config = done
    with safetensors.safe_open(out / "model.safetensors", "np") as file:
        names, about = list(file.keys()), file.metadata()
        tensors = {name: file.get_tensor(name) for name in names}
    assert sorted(names) == sorted(
        ["lstm/kernel", "lstm/recurrent_kernel", "lstm/bias", "readout/kernel", "readout/bias"]
    )
    layer = jlstm.LSTM.from_dict(json.loads(about["jlstm"])["spec"])
    assert layer == build(config).layer
    like = steps.init(config).params
    leaves = [tensors[jax.tree_util.keystr(p, simple=True, separator="/")] for p, _ in jax.tree.leaves_with_path(like)]
    params = jax.tree.unflatten(jax.tree.structure(like), leaves)
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    np.testing.assert_array_equal(scoring.make_scores(config).evaluate(params)["mse"], np.float32(last["mse"]))


def test_the_page_loads_nothing_and_says_everything(done):
    page = (done[0] / "report.html").read_text()
    assert set(re.findall(r"(?:src|href)\s*=\s*[\"']?(.{5})", page)) == {"data:"}
    assert "url(" not in page
    assert "@import" not in page
    assert "<script" not in page
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    for words in (
        "The toy.",
        "mse",
        "units = 4",
        "jaxlib",
        "prefers-color-scheme: dark",
        'name="viewport"',
        "Training",
    ):
        assert words in page
    assert page.count("<img ") == 1


def test_the_page_of_a_run_shows_a_sequence_from_outside_and_inside(done, monkeypatch):
    monkeypatch.setattr(report, "example_figures", toy.example_figures)
    monkeypatch.setattr(report, "write", lambda *_: None)  # what the other tests read stays
    config = done[1]
    step, params = train.restore(config, done[0])
    section = report.finish(config, done[0], params, step, 1.0, {})
    notes = {title: drawing.note for title, drawing in section.figures.items()}
    assert list(notes) == ["Training", "One evaluation sequence", "Gates and cells over the same steps"]
    assert "seed" in notes["One evaluation sequence"]
    assert "trained at the last step alone" in notes["One evaluation sequence"]
    assert "sorted from the slowest cell" in notes["Gates and cells over the same steps"]


def test_curves_are_bands_where_there_are_many_seeds_and_lines_where_there_are_few():
    values = np.array([[0.0, 1, 2, 3, 4], [5, np.nan, 7, 6, np.nan]])  # [E, S]
    figure = plots.curves(([1, 2], values), {"few": ([1, 2], values[:, :3])}, {}, 8)
    bands, lines = figure.axes
    edges = [sorted({(x, float(y)) for x, y in c.get_paths()[0].vertices}) for c in bands.collections]
    assert edges == [[(1, 0.0), (1, 4.0), (2, 5.0), (2, 7.0)], [(1, 1.0), (1, 3.0), (2, 5.5), (2, 6.5)]]
    assert [line.get_ydata().tolist() for line in bands.lines] == [[2, 6]]
    assert not lines.collections
    np.testing.assert_array_equal([line.get_ydata() for line in lines.lines], [[0, 5], [1, np.nan], [2, 7], [1, 6]])


def test_cases_are_compared_by_their_medians_over_sequences(done):
    summary = results.summarise(done[1], evaluations((0.1, 0.3)), {}, 1.0)
    config = with_target(done[1])
    slow = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=5))
    sections = {
        "a": report.Section(config, summary, evaluations((0.1, 0.3), (0.2, 0.6)), {}),
        "b": report.Section(slow, summary, evaluations((1.0, 3.0)), {}),
    }
    (axis,) = report._comparison(sections).axes
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines}
    assert drawn["a"] == ([40, 80], [0.2, pytest.approx(0.4)])  # 10 and 20 steps of 4 sequences
    assert drawn["b"] == ([50], [2.0])
    assert {"baseline 0.3333", "target 0.5"} <= set(drawn)


def test_text_of_a_config_cannot_become_markup(tmp_path):
    path = write_config(tmp_path, steps=1)
    path.write_text("# <script>alert(1)</script> & more\n" + path.read_text())
    assert run("train", path, "--out", tmp_path / "out")[0] == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page
