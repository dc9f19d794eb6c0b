"""The embedded Reber grammar against an acceptor written by hand."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks.reber import EDGE_NODE, END, LEGAL, SYMBOLS, EmbeddedReber

TASK = EmbeddedReber()
MANY = 4096
SAMPLE = jax.jit(TASK.sample, static_argnums=2)
EVALUATION = jax.jit(TASK.evaluation)


def inner_next(text):
    """The legal symbols after a piece of a Reber string; "" at its end, None where it is no such piece.

    Written out place by place from the drawing in Reber 1967, apart from the table that draws the samples.
    """
    if text == "":
        return "B"
    if text[0] != "B":
        return None
    place, legal = "start", "TP"
    for symbol in text[1:]:
        if symbol not in legal:
            return None
        match place, symbol:
            case "start", "T":
                place, legal = "upper", "SX"
            case "start", "P":
                place, legal = "lower", "TV"
            case "upper", "S":
                pass
            case "upper", "X":
                place, legal = "after upper", "XS"
            case "after upper", "X":
                place, legal = "lower", "TV"
            case "after upper", "S":
                place, legal = "exit", "E"
            case "lower", "T":
                pass
            case "lower", "V":
                place, legal = "after lower", "PV"
            case "after lower", "P":
                place, legal = "after upper", "XS"
            case "after lower", "V":
                place, legal = "exit", "E"
            case "exit", "E":
                place, legal = "end", ""
    return legal


def legal_next(text):
    """The legal symbols after a piece of an embedded Reber string; "" at its end."""
    if len(text) < 2:
        return "B" if text == "" else "TP"
    inner = text[2:]
    end = inner.find("E")
    if end < 0:
        return inner_next(inner)
    assert inner_next(inner[: end + 1]) == ""
    return [text[1], "E", ""][len(inner) - end - 1]


def strings(batch):
    """A batch as text, each string with its last E."""
    texts = []
    arrays = (np.asarray(a) for a in (batch.x, batch.lengths, batch.target.symbol))
    for x, n, symbol in zip(*arrays, strict=True):
        np.testing.assert_array_equal(x.sum(axis=1), np.arange(len(x)) < n)  # one-hot, then nothing
        texts.append("".join(SYMBOLS[i] for i in x[:n].argmax(axis=1)) + SYMBOLS[symbol[n - 1]])
    return texts


@pytest.fixture(scope="module")
def training():
    return SAMPLE(jax.random.key(3), (), MANY)[1]


@pytest.fixture(scope="module")
def evaluation():
    return EVALUATION(jax.random.key(4))


def test_acceptor_knows_the_paper_s_strings():
    assert legal_next("BTBTXSET") == "E"
    assert legal_next("BTBTXSETE") == ""
    assert legal_next("BPBPVVE") == "P"
    assert legal_next("BTBTSSXXTVPS") == "E"
    assert inner_next("BTV") is None


@pytest.mark.parametrize("which", ["training", "evaluation"])
def test_strings_and_legal_sets_are_the_grammar_s(which, request):
    batch = request.getfixturevalue(which)
    symbol, legal, lengths = (np.asarray(a) for a in (*batch.target, batch.lengths))
    for row, text in enumerate(strings(batch)):
        assert len(text) == lengths[row] + 1
        for t in range(len(text) - 1):
            expected = legal_next(text[: t + 1])
            assert text[t + 1] in expected
            assert SYMBOLS[symbol[row, t]] == text[t + 1]
            assert {SYMBOLS[i] for i in np.flatnonzero(legal[row, t])} == set(expected)
        assert legal_next(text) == ""


def test_shapes_and_dtypes(training, evaluation):
    assert training.x.shape == (MANY, 39, 7)
    assert evaluation.x.shape == (256, 39, 7)
    assert evaluation.target.legal.shape == (256, 39, 7)
    dtypes = (
        training.x.dtype,
        training.lengths.dtype,
        training.target.symbol.dtype,
        training.target.legal.dtype,
    )
    assert dtypes == (np.float32, np.int32, np.int32, np.bool_)


def test_no_evaluation_string_is_ever_drawn_for_training(training, evaluation):
    seen, unseen = set(strings(training)), set(strings(evaluation))
    assert len(unseen) == 256  # all different
    assert not seen & unseen
    other = EVALUATION(jax.random.key(5))  # the split hangs on the string, not on the key
    assert not seen & set(strings(other))


def test_about_one_string_in_four_is_kept_for_the_evaluation(training):
    # Of the strings of at most 14 symbols, all of which turn up: each is in one class or the other.
    short = {text for text in strings(training) if len(text) <= 14}
    every = {text for text in grammar(14) if len(text) <= 14}
    assert short <= every
    assert 0.5 < len(short) / len(every) < 0.95


def grammar(longest):
    """All strings up to a length, by the acceptor."""
    pieces, whole = [""], []
    while pieces:
        piece = pieces.pop()
        following = legal_next(piece)
        if following == "":
            whole.append(piece)
        elif len(piece) < longest:
            pieces += [piece + s for s in following]
    return whole


def probability(text):
    """The grammar's probability of a string: one half for each choice of two."""
    return 0.5 ** sum(len(legal_next(text[:t])) == 2 for t in range(len(text)))


def test_training_strings_have_the_grammar_s_probabilities(training):
    # The split leaves out whole strings and scales up the rest.
    counts = collections.Counter(strings(training))
    common = [text for text, _ in counts.most_common(8)]
    share = np.array([counts[text] / MANY for text in common])
    expected = np.array([probability(text) for text in common])
    scale = share.sum() / expected.sum()
    assert 1.0 < scale < 2.0
    np.testing.assert_allclose(share, scale * expected, rtol=0.25)  # 4 standard errors of 256 counts


def test_length_distribution_has_the_grammar_s_tail():
    # P(length > 40) by the walk's transition matrix: what max_length = 40 leaves out.
    step = np.zeros((END + 1, END + 1))
    for node, (one, two) in enumerate(EDGE_NODE):
        step[node, one] += 0.5
        step[node, two] += 0.5
    open_after = 1.0 - (np.eye(END + 1)[0] @ np.linalg.matrix_power(step, 40))[END]
    assert open_after == pytest.approx(5.7e-5, rel=0.02)
    # And by enumeration with the acceptor, to length 16.
    whole = sum(map(probability, grammar(16)))
    assert 1.0 - (np.eye(END + 1)[0] @ np.linalg.matrix_power(step, 16))[END] == pytest.approx(1.0 - whole)


def test_strings_longer_than_the_cap_are_drawn_again():
    sample = jax.jit(EmbeddedReber(max_length=24).sample, static_argnums=2)
    lengths = sample(jax.random.key(0), (), 1024)[1].lengths
    assert int(lengths.min()) == 8
    assert 20 <= int(lengths.max()) <= 24  # one in a hundred would be longer


def test_metrics_of_perfect_outputs(evaluation):
    scores = TASK.metrics(evaluation.target.legal.astype(jnp.float32), evaluation)
    assert [float(scores[name]) for name in ("strings", "steps", "outer")] == [1.0, 1.0, 1.0]


def test_metrics_where_the_outer_symbol_is_guessed(evaluation):
    # Everything right, but T before every closing symbol: right in the strings that began with T.
    rows, closing = np.arange(256), np.asarray(evaluation.lengths) - 2
    outputs = np.asarray(evaluation.target.legal, np.float32)
    outputs[rows, closing] = np.eye(7, dtype=np.float32)[SYMBOLS.index("T")]
    share = np.mean([text[1] == "T" for text in strings(evaluation)])
    scores = TASK.metrics(jnp.asarray(outputs), evaluation)
    assert float(scores["outer"]) == pytest.approx(share)
    assert float(scores["strings"]) == pytest.approx(share)
    assert 0.35 < share < 0.65  # the baseline says one half


def test_metrics_count_one_wrong_step_against_its_string(evaluation):
    outputs = np.asarray(evaluation.target.legal, np.float32)
    outputs[7, 3] = 0.0  # a tie: legal symbols no more active than the others
    scores = TASK.metrics(jnp.asarray(outputs), evaluation)
    steps = int(np.asarray(evaluation.lengths).sum())
    assert float(scores["strings"]) == pytest.approx(255 / 256)
    assert float(scores["steps"]) == pytest.approx((steps - 1) / steps)
    assert float(scores["outer"]) == 1.0


def test_both_legal_symbols_must_be_above_the_others(evaluation):
    # After the first B both T and P are legal; the one that came, alone, is not enough.
    outputs = np.asarray(evaluation.target.legal, np.float32)
    outputs[:, 0] = np.eye(7, dtype=np.float32)[SYMBOLS.index("T")]
    assert float(TASK.metrics(jnp.asarray(outputs), evaluation)["strings"]) == 0.0


def test_loss_is_the_cross_entropy_over_valid_steps(evaluation):
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(256, 39, 7)).astype(np.float32)
    p = np.exp(outputs) / np.exp(outputs).sum(axis=-1, keepdims=True)
    symbol, lengths = np.asarray(evaluation.target.symbol), np.asarray(evaluation.lengths)
    nats = [-np.log(p[row, t, symbol[row, t]]) for row, n in enumerate(lengths) for t in range(n)]
    assert float(TASK.loss(jnp.asarray(outputs), evaluation)) == pytest.approx(np.mean(nats), rel=1e-5)


def test_padding_carries_no_loss(evaluation):
    outputs = np.zeros((256, 39, 7), np.float32)
    spoiled = np.where((np.arange(39) < np.asarray(evaluation.lengths)[:, None])[..., None], outputs, 100.0)
    spoiled[..., 0] *= -1.0
    one, two = (TASK.metrics(jnp.asarray(o), evaluation) for o in (outputs, spoiled))
    for name in one:
        assert float(one[name]) == float(two[name])


def test_sample_is_a_function_of_its_key():
    one, same, other = (SAMPLE(jax.random.key(k), (), 8)[1] for k in (5, 5, 6))
    np.testing.assert_array_equal(one.x, same.x)
    np.testing.assert_array_equal(one.lengths, same.lengths)
    assert strings(one) != strings(other)


def test_every_node_has_one_or_two_legal_symbols():
    assert set(LEGAL.sum(axis=1).tolist()) == {1, 2}


def test_too_small_a_cap_raises():
    with pytest.raises(ValueError, match="max_length must be at least 24, got 9"):
        EmbeddedReber(max_length=9)
