"""Characters: the text, the streams that read it, and the 5-gram model against its formula."""

import hashlib
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks import Batch
from experiments.tasks.characters import (
    DISCOUNT,
    ROWS,
    WARMUP,
    Characters,
    distinct_paragraphs,
    ngram_bits,
    span,
    text,
    training,
)


def words(codes):
    return "".join(text().alphabet[code] for code in np.asarray(codes))


def test_paragraphs_stand_once_in_the_order_of_their_first():
    topics = ["one\ntwo\n\nthree", "  three\n\n\n\nfour", "one  two\n\nfour"]
    assert distinct_paragraphs(topics) == "one\ntwo\n\nthree\n\nfour"


def test_the_text_is_python_s_and_no_test_paragraph_is_in_the_training_text():
    from pydoc_data.topics import topics

    whole = text().whole
    assert words(text().codes) == whole
    assert text().sha256 == hashlib.sha256(whole.encode("utf-8")).hexdigest()
    first = sorted(topics)[0]
    assert whole.startswith(topics[first].split("\n\n")[0])
    start, end = span("test")
    learnt = {" ".join(p.split()) for p in whole[:start].split("\n\n")}
    unseen = {" ".join(p.split()) for p in whole[start:end].split("\n\n")}
    assert len(learnt & unseen) == 0
    assert len(unseen) > 100


def test_spans_are_85_5_and_10_percent():
    size = len(text().codes)
    assert len(training()) == span("validation")[0] == int(0.85 * size)
    assert span("validation")[1] == span("test")[0] == int(0.9 * size)
    assert span("test")[1] == size


def test_chunks_read_on_where_the_last_ended_and_go_round():
    task = Characters(chunk=5)
    learnt = words(training())
    stream = jnp.array([0, len(learnt) - 7], jnp.int32)
    sample = jax.jit(task.sample, static_argnums=2)
    seen = [[], []]
    for step in range(3):
        stream, batch = sample(jax.random.key(step), stream, 2)
        np.testing.assert_array_equal(np.asarray(batch.x).sum(axis=-1), 1.0)
        for row in range(2):
            x, target = words(np.argmax(batch.x[row], axis=-1)), words(batch.target[row])
            assert x[1:] == target[:-1]
            seen[row] += [x]
            following = target[-1]
    assert "".join(seen[0]) == learnt[:15]
    assert "".join(seen[1]) == learnt[-7:] + learnt[:8]
    assert following == learnt[8]


def test_rows_start_evenly_spaced_at_a_place_of_the_key():
    starts = [np.asarray(Characters().stream(jax.random.key(seed), 4)) for seed in (0, 1)]
    gaps = [np.diff(np.sort(start)) for start in starts]
    assert np.abs(np.concatenate(gaps) - len(training()) / 4).max() <= 1
    assert starts[0][0] != starts[1][0]


@pytest.mark.parametrize("held_out", ["validation", "test"])
def test_every_held_out_character_is_scored_once_after_256_before_it(held_out):
    task = Characters(held_out=held_out)
    batch = task.evaluation(jax.random.key(0))
    start, end = span(held_out)
    assert batch.x.shape[:2] == batch.target.shape == (ROWS, WARMUP + (end - start) // ROWS)
    scored = "".join(words(row) for row in batch.target[:, WARMUP:])
    assert scored == text().whole[start : start + len(scored)]
    assert end - start - len(scored) < ROWS
    np.testing.assert_array_equal(np.argmax(batch.x, axis=-1)[:, 1:], batch.target[:, :-1])
    assert words(np.argmax(batch.x[0], axis=-1)[: WARMUP + 1]) == text().whole[start - WARMUP - 1 : start]


def test_bits_of_known_outputs_leave_the_warm_up_out():
    symbols = Characters().output_size
    target = jnp.zeros((2, WARMUP + 4), jnp.int32)
    outputs = jnp.zeros((2, WARMUP + 4, symbols)).at[:, WARMUP : WARMUP + 2, 0].set(math.log(symbols - 1))
    found = Characters().metrics(outputs, Batch(jnp.zeros((2, 1, 1)), target))
    # Two of four steps give the right one 1/2, the others 1/symbols; an argmax of equals is the first, the right one.
    assert float(found["bits"]) == pytest.approx((1 + math.log2(symbols)) / 2, rel=1e-5)
    assert float(found["guessed"]) == 1.0
    assert float(found["bits_over_ngram"] * Characters().baseline()["bits"]) == pytest.approx(float(found["bits"]))
    found = Characters().metrics(outputs, Batch(jnp.zeros((2, 1, 1)), target + 1))
    assert float(found["guessed"]) == 0.0


def kneser_ney(train, context, character, symbols, top):
    """The formula, recursively, every count made afresh from the text."""

    def count(string):  # of places, or of different characters before it
        places = [i for i in range(len(train) - len(string) + 1) if train[i:].startswith(string)]
        if len(string) == top + 1:
            return len(places)
        # what is counted below is the longest n-grams' kinds, so the characters in front of every one of them
        return len({train[i - (top + 1 - len(string)) : i][-1:] for i in places if i >= top + 1 - len(string)})

    kinds = {c: count(context + c) for c in set(train)}
    total = sum(kinds.values())
    below = kneser_ney(train, context[1:], character, symbols, top) if context else 1 / symbols
    if not total:
        return below
    varied = sum(n > 0 for n in kinds.values())
    return (max(kinds.get(character, 0) - DISCOUNT, 0) + DISCOUNT * varied * below) / total


def test_the_n_gram_model_is_the_formula():
    train, before, scored, symbols = "abracadabra abracadabra", "cad", "abrak dab", 8
    whole = before + scored
    bits = [
        -math.log2(kneser_ney(train, whole[max(i - 2, 0) : i], whole[i], symbols, top=2))
        for i in range(len(before), len(whole))
    ]
    assert ngram_bits(train, before, scored, symbols, order=3) == pytest.approx(np.mean(bits), rel=1e-9)


def test_the_n_gram_model_is_a_distribution():
    train, alphabet = "abracadabra abracadabra", "abcdr kz"
    for before in ("ab", "zz", "ka", "ra"):
        shares = [2 ** -ngram_bits(train, before, c, len(alphabet), order=3) for c in alphabet]
        assert sum(shares) == pytest.approx(1.0, rel=1e-9), before


def test_an_order_of_one_is_how_often_a_character_comes():
    train = "aabac"
    counts = Counter(train)
    bits = ngram_bits(train, "", "b", symbols=4, order=1)
    assert 2**-bits == pytest.approx((counts["b"] - DISCOUNT + DISCOUNT * 3 / 4) / 5)


def test_the_baseline_scores_the_characters_that_the_rows_score():
    start, end = span("test")
    scored = (end - start) // ROWS * ROWS
    whole = text().whole
    by_hand = ngram_bits(words(training()), whole[:start], whole[start : start + scored], len(text().alphabet), order=5)
    assert Characters().baseline() == {"bits": pytest.approx(by_hand), "bits_over_ngram": 1.0}


def test_a_chunk_out_of_range_raises():
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        Characters(chunk=0)
