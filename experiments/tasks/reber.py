"""The embedded Reber grammar: predict the next symbol, and at the end the one chosen at the beginning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from experiments.tasks import Batch, Picture

SYMBOLS = "BTPSXVE"
EVALUATION_STRINGS = 256  # the size of the paper's test set
EVALUATION_SHARE = 4  # one hash class in so many is kept for the evaluation
CANDIDATES = 16 * EVALUATION_STRINGS  # drawn for the evaluation, of which the first different ones are taken
EVALUATION_KEY = 0x52454245  # folded into the evaluation key, so that it meets no training key

# The inner grammar: a row a node, its two edges (symbol, next node); a node with one edge has it twice.
_INNER = (
    (("B", 1), ("B", 1)),
    (("T", 2), ("P", 3)),
    (("S", 2), ("X", 4)),
    (("T", 3), ("V", 5)),
    (("X", 3), ("S", 6)),
    (("P", 4), ("V", 6)),
    (("E", 7), ("E", 7)),
)


def _edges() -> list[list[tuple[str, int]]]:
    """Embed the inner grammar twice, after T and after P: the node remembers what the layer has to."""
    size = len(_INNER)
    inner_t, inner_p = 2, 2 + size
    closing_t, closing_p, last, end = range(2 + 2 * size, 6 + 2 * size)
    table = [[("B", 1)] * 2, [("T", inner_t), ("P", inner_p)]]
    for start, closing in ((inner_t, closing_t), (inner_p, closing_p)):
        table += [[(s, closing if node == size else start + node) for s, node in edges] for edges in _INNER]
    return [*table, [("T", last)] * 2, [("P", last)] * 2, [("E", end)] * 2, [("E", end)] * 2]


_TABLE = _edges()
END = len(_TABLE) - 1  # absorbing; its edge is never part of a string
EDGE_SYMBOL = np.array([[SYMBOLS.index(s) for s, _ in edges] for edges in _TABLE], np.int32)  # [nodes, 2]
EDGE_NODE = np.array([[n for _, n in edges] for edges in _TABLE], np.int32)  # [nodes, 2]
LEGAL = np.zeros((len(_TABLE), len(SYMBOLS)), bool)  # [nodes, 7]: the symbols that may come next
for _node, _symbols in enumerate(EDGE_SYMBOL):
    LEGAL[_node, _symbols] = True


class Next(NamedTuple):
    """What comes after each input symbol."""

    symbol: Array  # [B, T] int32: the one that came, from which the layer learns
    legal: Array  # [B, T, 7] bool: those that might have come, by which it is judged


@dataclass(frozen=True)
class EmbeddedReber:
    """Predict the next symbol of B (T|P) <Reber string> (T|P) E, the two outer symbols being the same.

    Symbols are one-hot; where the grammar has two edges each is taken with probability 1/2. Inside, the next
    symbol follows from the last few; the outer T or P at the end follows from the second symbol alone, six
    steps back or more, and is what a plain recurrent network fails to learn.

    A hash of the string decides which strings are for training and which (one in four) for evaluation:
    training samples are fresh, and no evaluation string is ever among them. Strings longer than `max_length`
    are drawn again.

    It shows that the cell bridges a gap while the same units follow the local grammar.

    Source: Reber 1967; Fahlman 1991; Hochreiter & Schmidhuber 1997, experiment 1.
    """

    max_length: int = 40  # symbols of a string; one string of the grammar in 18,000 is longer

    input_size = len(SYMBOLS)
    output_size = len(SYMBOLS)
    every_step = True
    loss_on = "every step"

    def __post_init__(self) -> None:
        if self.max_length < 24:  # below, fewer than 256 different strings are left to evaluate on
            raise ValueError(f"max_length must be at least 24, got {self.max_length}")

    def stream(self, key: Array, batch_size: int) -> tuple[()]:
        """Strings are independent: nothing is carried."""
        return ()

    def sample(self, key: Array, stream: tuple[()], batch_size: int) -> tuple[tuple[()], Batch]:
        """Draw training strings: x [B, max_length - 1, 7], lengths [B] (symbols without the last E)."""
        keys = jax.random.split(key, batch_size)
        return stream, _batch(*jax.vmap(lambda k: self._string(k, evaluation=False))(keys))

    def loss(self, outputs: Array, batch: Batch) -> Array:
        """Mean cross entropy of the symbol that came next, in nats a symbol, over the valid steps."""
        valid = _valid(batch)
        nats = optax.softmax_cross_entropy_with_integer_labels(outputs, batch.target.symbol)
        return jnp.sum(jnp.where(valid, nats, 0.0)) / jnp.sum(valid, dtype=jnp.float32)

    def evaluation(self, key: Array) -> Batch:
        """256 different strings that training never draws."""
        keys = jax.random.split(jax.random.fold_in(key, EVALUATION_KEY), CANDIDATES)
        symbols, nodes, length = jax.vmap(lambda k: self._string(k, evaluation=True))(keys)
        code = jax.vmap(_hash)(symbols)
        seen_before = jnp.any(jnp.tril(code[:, None] == code[None, :], k=-1), axis=1)
        chosen = jnp.argsort(seen_before, stable=True)[:EVALUATION_STRINGS]
        return _batch(symbols[chosen], nodes[chosen], length[chosen])

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """Count what was predicted right: a step is, where every legal symbol is above every other one.

        Returns `strings` (share of those right at every step), `steps`, `outer` (of the steps whose next
        symbol is the closing T or P), and `nats`, the loss.
        """
        legal, valid = batch.target.legal, _valid(batch)
        least_legal = jnp.min(jnp.where(legal, outputs, jnp.inf), axis=-1)
        most_illegal = jnp.max(jnp.where(legal, -jnp.inf, outputs), axis=-1)
        right = least_legal > most_illegal
        assert batch.lengths is not None
        step = jnp.arange(outputs.shape[1])[None, :]
        closing = step == batch.lengths[:, None] - 2  # input E of the inner string, next T or P
        return {
            "strings": jnp.mean(jnp.all(right | ~valid, axis=1), dtype=jnp.float32),
            "steps": _share(right, valid),
            "outer": _share(right, closing),
            "nats": self.loss(outputs, batch),
        }

    def baseline(self) -> dict[str, float]:
        """The inner grammar without fault and a guess at the outer symbol (exact): half of the strings."""
        return {"strings": 0.5, "outer": 0.5}

    def picture(self, batch: Batch) -> Picture:
        """The cells have to hold the outer symbol from the second step until it comes again."""
        assert batch.lengths is not None
        step = np.arange(batch.x.shape[1])[None, :]
        outer = batch.x[:, 1, SYMBOLS.index("T")] - batch.x[:, 1, SYMBOLS.index("P")]
        inner = (step >= 1) & (step < batch.lengths[:, None] - 1)
        return Picture(
            inputs=SYMBOLS, outputs=SYMBOLS, memory=np.where(inner, outer[:, None], np.nan),
            memory_name="the outer symbol (T: 1, P: -1)",
        )  # fmt: skip

    def _string(self, key: Array, *, evaluation: bool) -> tuple[Array, Array, Array]:
        """Draw strings until one ends within `max_length` and belongs to the wanted hash class.

        Returns: symbols [L] int32 (padded with 0), nodes [L] int32 (before each symbol), length [] int32.
        """

        def draw(key: Array) -> tuple[Array, Array, Array]:
            def walk(node: Array, turn: Array) -> tuple[Array, tuple[Array, Array]]:
                symbol = jnp.asarray(EDGE_SYMBOL)[node, turn]
                return jnp.asarray(EDGE_NODE)[node, turn], (symbol, node)

            turns = jax.random.bernoulli(key, 0.5, (self.max_length,)).astype(jnp.int32)
            node, (symbols, nodes) = jax.lax.scan(walk, jnp.int32(0), turns)
            valid = nodes != END
            # A walk that has not ended gets length 0, and is refused.
            length = jnp.where(node == END, jnp.sum(valid, dtype=jnp.int32), 0)
            return jnp.where(valid, symbols, 0), nodes, length

        def refused(carry: tuple[Array, tuple[Array, Array, Array]]) -> Array:
            _, (symbols, _, length) = carry
            return (length == 0) | ((_hash(symbols) % EVALUATION_SHARE == 0) != evaluation)

        def again(
            carry: tuple[Array, tuple[Array, Array, Array]],
        ) -> tuple[Array, tuple[Array, Array, Array]]:
            key, draw_key = jax.random.split(carry[0])
            return key, draw(draw_key)

        return jax.lax.while_loop(refused, again, again((key, draw(key))))[1]


def _batch(symbols: Array, nodes: Array, length: Array) -> Batch:
    """Cut strings into inputs and what comes next: [B, L] -> x [B, L - 1, 7]."""
    x = jax.nn.one_hot(symbols[:, :-1], len(SYMBOLS), dtype=jnp.float32)
    lengths = length - 1
    x = jnp.where((jnp.arange(x.shape[1])[None, :] < lengths[:, None])[..., None], x, 0.0)
    return Batch(x, Next(symbols[:, 1:], jnp.asarray(LEGAL)[nodes[:, 1:]]), lengths)


def _valid(batch: Batch) -> Array:
    """The steps that carry loss, [B, T] bool."""
    assert batch.lengths is not None
    return jnp.arange(batch.x.shape[1])[None, :] < batch.lengths[:, None]


def _share(right: Array, where: Array) -> Array:
    return jnp.sum(right & where, dtype=jnp.float32) / jnp.sum(where, dtype=jnp.float32)


def _hash(symbols: Array) -> Array:
    """32 bits of a padded string: FNV-1a over its symbols, mixed at the end (MurmurHash3's finaliser)."""

    def step(code: Array, symbol: Array) -> tuple[Array, None]:
        return (code ^ symbol.astype(jnp.uint32)) * jnp.uint32(16777619), None

    code, _ = jax.lax.scan(step, jnp.uint32(2166136261), symbols)
    code = (code ^ (code >> 16)) * jnp.uint32(0x85EBCA6B)
    code = (code ^ (code >> 13)) * jnp.uint32(0xC2B2AE35)
    return code ^ (code >> 16)
