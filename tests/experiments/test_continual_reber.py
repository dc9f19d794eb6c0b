"""The continual embedded Reber stream, cut into strings and held to the acceptor of the single strings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_reber import legal_next

from experiments.tasks.continual_reber import ContinualReber
from experiments.tasks.reber import SYMBOLS

ROWS, CHUNKS = 8, 12


def chunks(task, count=CHUNKS, seed=0):
    """Consecutive training batches of one stream a row."""
    key = jax.random.key(seed)
    stream = task.stream(jax.random.fold_in(key, 1000), ROWS)
    found = []
    for step in range(count):
        stream, batch = _sampler(task)(jax.random.fold_in(key, step), stream, ROWS)
        found.append(batch)
    return found


@functools.cache
def _sampler(task):
    return jax.jit(task.sample, static_argnums=2)


def texts(batches):
    """The inputs of each row as one text, and the symbols that are to come after each of them."""
    x = np.concatenate([np.asarray(b.x) for b in batches], axis=1)
    assert (x.sum(axis=-1) == 1.0).all()
    following = np.concatenate([np.asarray(b.target.symbol) for b in batches], axis=1)
    return [
        tuple("".join(SYMBOLS[i] for i in row) for row in pair) for pair in zip(x.argmax(-1), following, strict=True)
    ]


def check_stream(text, following, legal):
    """Hold a stream that starts with a string to the grammar; give its strings, without the last piece."""
    strings, start = [], 0
    for t in range(len(text)):
        expected = legal_next(text[start : t + 1])
        assert expected is not None
        if expected == "":  # the string is at its end, and the next one comes
            strings.append(text[start : t + 1])
            expected, start = "B", t + 1
        assert following[t] in expected
        assert {SYMBOLS[i] for i in np.flatnonzero(legal[t])} == set(expected)
        if t + 1 < len(text):
            assert text[t + 1] == following[t]
    return strings


def test_chunks_are_pieces_of_one_stream_of_strings():
    batches = chunks(ContinualReber(chunk=30, reset=0.0))
    legal = np.concatenate([np.asarray(b.target.legal) for b in batches], axis=1)
    strings = []
    for row, (text, following) in enumerate(texts(batches)):
        strings += check_stream(text, following, legal[row])
        assert not any(np.asarray(b.reset[row]).any() for b in batches)
    assert len(strings) > ROWS * 20
    assert 0.35 < np.mean([string[1] == "T" for string in strings]) < 0.65


def test_evaluation_is_ten_streams_from_the_start_of_a_string():
    batch = jax.jit(ContinualReber(evaluation_symbols=2000).evaluation)(jax.random.key(0))
    assert batch.x.shape == (10, 2000, 7)
    assert batch.reset is None
    strings = []
    for row, (text, following) in enumerate(texts([batch])):
        strings += check_stream(text, following, np.asarray(batch.target.legal[row]))
    assert np.mean([len(s) for s in strings]) == pytest.approx(mean_length(), rel=0.05)
    assert len({text for text, _ in texts([batch])}) == 10


def mean_length():
    """The mean length of a string: from a node one symbol more than from where its two edges lead, on average."""
    edges = {"1": "23", "2": "24", "3": "35", "4": "36", "5": "46"}
    left = dict.fromkeys("123456", 0.0) | {"6": 1.0}  # at node 6 the E alone is left
    for _ in range(200):
        left |= {node: 1.0 + (left[one] + left[two]) / 2.0 for node, (one, two) in edges.items()}
    return 2 + 1 + left["1"] + 2  # B and the outer symbol, the inner B, the walk, the outer symbol and E


def test_a_reset_starts_a_new_string_and_stands_at_first_steps_alone():
    batches = chunks(ContinualReber(chunk=10, reset=0.3), count=40)
    resets = np.stack([np.asarray(b.reset) for b in batches])  # [chunks, B, T]
    assert not resets[..., 1:].any()
    assert np.mean(resets[..., 0]) == pytest.approx(0.3, abs=0.08)  # 320 draws: 3 standard errors
    for number, row in np.argwhere(resets[..., 0]):
        piece = batches[number]
        text, following = texts([piece])[row]
        check_stream(text, following, np.asarray(piece.target.legal[row]))
    for number in range(1, 40):  # and no row without a reset breaks off
        before, now = texts([batches[number - 1]]), texts([batches[number]])
        for row in np.flatnonzero(~resets[number, :, 0]):
            assert now[row][0][0] == before[row][1][-1]


@pytest.fixture(scope="module")
def evaluation():
    return ContinualReber(evaluation_symbols=500).evaluation(jax.random.key(1))


def test_metrics_of_perfect_outputs(evaluation):
    scores = ContinualReber().metrics(evaluation.target.legal.astype(jnp.float32), evaluation)
    assert [float(scores[k]) for k in ("streams", "symbols", "steps", "outer")] == [1.0, 500.0, 1.0, 1.0]


def test_metrics_count_the_first_error_of_a_stream(evaluation):
    outputs = np.asarray(evaluation.target.legal, np.float32)
    outputs[3, 40] = 0.0  # a tie is an error
    outputs[3, 7] = 1.0
    outputs[6, 499] = 0.0
    scores = ContinualReber().metrics(jnp.asarray(outputs), evaluation)
    assert float(scores["streams"]) == pytest.approx(0.8)
    assert float(scores["symbols"]) == pytest.approx((8 * 500 + 7 + 499) / 10)
    assert float(scores["steps"]) == pytest.approx(1 - 3 / 5000)


def test_metrics_where_the_outer_symbol_is_guessed(evaluation):
    # T for every closing symbol, found by the acceptor: right in about half of the strings.
    outputs = np.asarray(evaluation.target.legal, np.float32)
    closing = []
    for row, (text, _) in enumerate(texts([evaluation])):
        start = 0
        for t in range(len(text)):
            piece = text[start : t + 1]
            if legal_next(piece) == "":
                start = t + 1
            elif len(piece) > 3 and legal_next(piece) in ("T", "P"):
                closing.append(legal_next(piece) == "T")
                outputs[row, t] = np.eye(7, dtype=np.float32)[SYMBOLS.index("T")]
    scores = ContinualReber().metrics(jnp.asarray(outputs), evaluation)
    assert float(scores["outer"]) == pytest.approx(np.mean(closing))
    assert float(scores["outer"]) == pytest.approx(ContinualReber().baseline()["outer"], abs=0.15)
    assert float(scores["streams"]) == ContinualReber().baseline()["streams"]


def test_loss_is_the_cross_entropy_of_the_symbol_that_came(evaluation):
    outputs = np.random.default_rng(0).normal(size=(10, 500, 7)).astype(np.float32)
    p = np.exp(outputs) / np.exp(outputs).sum(axis=-1, keepdims=True)
    came = np.take_along_axis(p, np.asarray(evaluation.target.symbol)[..., None], axis=-1)
    assert float(ContinualReber().loss(jnp.asarray(outputs), evaluation)) == pytest.approx(
        -np.log(came).mean(), rel=1e-5
    )


def test_sample_is_a_function_of_its_key():
    task = ContinualReber(chunk=20)
    for one, two in zip(chunks(task, 2), chunks(task, 2), strict=True):
        np.testing.assert_array_equal(one.x, two.x)
    assert not np.array_equal(chunks(task, 1)[0].x, chunks(task, 1, seed=1)[0].x)


def test_fields_out_of_range_raise():
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        ContinualReber(chunk=0)
    with pytest.raises(ValueError, match=r"reset must be in \[0, 1\], got 1.5"):
        ContinualReber(reset=1.5)
    with pytest.raises(ValueError, match="evaluation_symbols must be at least 1, got 0"):
        ContinualReber(evaluation_symbols=0)
