"""The benchmark's plumbing on tiny shapes, and its arithmetic on numbers made by hand. No time is asserted."""

import json

import numpy as np
import pytest

from benchmarks import __main__ as program
from benchmarks import cases, criteria, measure
from benchmarks.cases import Shape

pytestmark = pytest.mark.lenient  # other libraries rely on promotion

SECONDS = {"jlstm": 2.0, "jlstm-xla": 4.0, "scan": 5.0, "haiku": 3.9, "torch": 3.0}
KINDS = {"jlstm": "jlstm", "jlstm-xla": "jlstm", "scan": "jax", "haiku": "jax", "torch": "other"}


def table(section, shape, gflop=1.0, **seconds):
    rows = {name: {"kind": KINDS.get(name, "other"), "median": s} for name, s in (seconds or SECONDS).items()}
    return {"section": section, "shape": list(shape), "gflop": gflop, "rows": rows, "left_out": {}}


def test_a_run_saves_tables_that_can_be_read_and_a_picture(tmp_path, capsys):
    arguments = ["--sections", "forward", "step", "streaming", "--peers", "jlstm", "scan"]
    assert (
        program.main([*arguments, "--shapes", "2,3,2,4", "--samples", "2", "--rest", "0", "--out", str(tmp_path)]) == 0
    )
    data = json.loads((tmp_path / "results.json").read_text())
    assert [t["section"] for t in data["tables"]] == ["forward", "step", "streaming", "streaming_numpy"]
    assert [t["left_out"] for t in data["tables"]] == [{}] * 4  # so all agreed with the plain scan
    for found in data["tables"]:
        assert set(found["rows"]) == {"jlstm", "scan"}
        for row in found["rows"].values():
            assert 0 < row["min"] <= row["median"] <= row["max"]
            assert len(row["samples"]) >= 2
    assert data["tables"][0]["shape"] == [2, 3, 2, 4]
    assert data["machine"]["cores"] >= 1
    assert data["machine"]["versions"]["jax"]
    assert data["peak"]["gflops"] > 0
    assert {c["against"] for c in data["criteria"]} == {"scan"}
    assert (tmp_path / "results.png").stat().st_size > 10_000
    assert "| jlstm |" in (tmp_path / "results.md").read_text()
    assert "saved under" in capsys.readouterr().out


def test_a_peer_that_fails_or_computes_something_else_is_a_line(monkeypatch):
    class Refuses(program.sections.peers.Scan):
        def __init__(self, shape):
            raise ValueError("no such backend")

    class Wrong(program.sections.peers.Scan):
        def apply(self, params, x):
            y, h, c = super().apply(params, x)
            return y * 1.001, h, c

    monkeypatch.setattr(program.sections, "PEERS", {"refuses": Refuses, "wrong": Wrong})
    said = []
    options = program.sections.Options(peers=("refuses", "wrong"), samples=1, rest=0.0, say=said.append)
    found = program.sections.timed("forward", Shape(2, 3, 2, 4), options)
    assert found["rows"] == {}
    assert found["left_out"]["refuses"] == "ValueError: no such backend"
    assert found["left_out"]["wrong"].startswith("y differs by 1.0e-03")
    assert len(said) == 2


def test_gflop_counts_the_products_and_three_times_that_for_a_step():
    shape = Shape(128, 100, 256, 512)
    assert cases.gflop(shape, "forward") == pytest.approx(2 * 128 * 100 * 2048 * 768 / 1e9)
    assert cases.gflop(shape, "step") == pytest.approx(120.8, abs=0.05)
    assert cases.gflop(cases.MANY, "many") == pytest.approx(24 * cases.gflop(cases.MANY, "forward"))


def test_forward_is_held_against_the_best_of_any_kind_and_the_best_jax_library():
    found = criteria.judge([table("forward", (32, 100, 32, 128))], peak=1.0)  # GFLOP/s; 1 GFLOP in 2.0 s: half of it
    assert [(c.against, c.wanted, c.measured, c.share, c.met) for c in found] == [
        ("torch", 0.97, 1.5, 0.5, True),  # 3.0 / 2.0
        ("haiku", 1.5, 1.95, 0.5, True),  # 3.9 / 2.0
        ("haiku", 0.95, 0.975, None, True),  # xla: 3.9 / 4.0
    ]


def test_a_ratio_that_falls_short_is_met_by_the_share_of_the_peak_alone():
    slow = {"jlstm": 2.0, "torch": 1.0}
    assert [c.met for c in criteria.judge([table("step", (128, 100, 256, 512), **slow)], peak=0.57)] == [False]  # 0.877
    assert [c.met for c in criteria.judge([table("step", (128, 100, 256, 512), **slow)], peak=0.56)] == [True]  # 0.893
    assert [c.met for c in criteria.judge([table("step", (128, 100, 256, 512), **slow)], peak=None)] == [False]


def test_one_step_of_training_is_held_for_xla_alone():
    assert [c.what for c in criteria.judge([table("step", (1, 1, 32, 128))], None)] == [
        "xla, step (1,1,32,128), best JAX library"
    ]


def test_many_streaming_and_adding():
    many = criteria.judge([table("many", cases.MANY, jlstm=1.0, scan=5.1)], None)
    assert [(c.wanted, c.measured, c.met) for c in many] == [(5.0, 5.1, True)]
    step = criteria.judge([table("streaming", cases.STREAM, jlstm=1.3, onnxruntime=1.0)], None)
    assert [c.met for c in step] == [False]
    adding = criteria.judge_adding({"jlstm": 1.0, "jlstm-xla": 9.0, "torch": 2.0, "keras": 1.9})
    assert [(c.against, c.measured, c.met) for c in adding] == [("torch", 2.0, True), ("keras", 1.9, False)]


def test_gate_blocks_go_there_and_back():
    kernel = np.arange(24.0).reshape(2, 12)
    np.testing.assert_array_equal(cases.reorder(kernel, "ifgo", "igfo")[0], [0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11])
    np.testing.assert_array_equal(cases.reorder(cases.reorder(kernel, "ifgo", "iofg"), "iofg", "ifgo"), kernel)


def test_peers_take_turns_and_the_order_turns_too():
    order = []
    timings = measure.measure(dict.fromkeys("abc", lambda: None), 4, rest=0.0, progress=order.append)
    assert order == list("abcbcacababc")  # four rounds of blocks of one
    assert {len(t.samples) for t in timings.values()} == {4}
    timings = measure.measure({"a": lambda: None}, 10, rest=0.0)
    assert len(timings["a"].samples) == 12  # four blocks of three
