"""One evaluation sequence through one trained model: input, outputs beside targets, gates and cells at every step."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jlstm
from experiments import results
from experiments.config import Config
from experiments.model import ModelParams, SequenceModel, build, read
from experiments.scoring import evaluation_batch
from experiments.tasks import Batch, Picture

LONGEST = 120  # steps that are drawn of a sequence with a target at every step
PROBED = 256  # evaluation sequences on which cells are compared with what has to be remembered
PROBED_VALUES = 2_000_000  # values of cells in them, at most: longer sequences are fewer


class Example(NamedTuple):
    """One sequence, chosen as row_name says, for T steps from step `first` on.

    Of the three kinds of target, those that the task has are not None.

    outputs: as they are drawn, see Picture. Without `every_step` the last row alone is what the model was trained to
        give; those before are the readout of each step's h, or NaN where the layer reads both ways.
    values: the target, NaN where there is none.
    classes: the right class, -1 where there is none.
    legal: the set of those that may come.
    """

    first: int
    row_name: str
    every_step: bool
    x: np.ndarray  # [T, D]
    inputs: Sequence[str] | None  # D names
    outputs: np.ndarray  # [T, K]
    names: Sequence[str] | None  # of the K outputs
    values: np.ndarray | None  # [T, K]
    classes: np.ndarray | None  # [T]
    legal: np.ndarray | None  # [T, K] bool


class Probe(NamedTuple):
    """What has to be remembered, and what the cells say of it: fitted on half of the sequences, R² on the others."""

    name: str
    memory: np.ndarray  # [T]
    unit: int  # whose cell alone says most
    one_cell: np.ndarray  # [T]: memory as that cell says it
    one_r2: float
    all_cells: np.ndarray  # [T]: as all of them say it, by least squares
    all_r2: float


class Inside(NamedTuple):
    """One LSTM over the steps of an Example."""

    trace: jlstm.LSTMTrace  # [T, N] each
    scale: np.ndarray  # [N]: the largest |c| over the evaluation sequences looked at
    order: np.ndarray  # [N]: the units from top to bottom
    sorted_by: str  # that order in words
    probe: Probe | None


def median_seed(config: Config, summary: Mapping[str, Any]) -> tuple[int, str]:
    """Choose the seed in the middle by the target's metric (or the first one) at the end, and say which it is."""
    metrics = summary["metrics"]
    target = config.target.metric if config.target is not None else ""
    name = target if target in metrics else next(iter(metrics))
    values = [np.inf if v is None else v for v in results.measured(metrics[name])]
    seed = int(np.argsort(values, kind="stable")[len(values) // 2])
    return seed, f"seed {seed} of {len(values)}, the median one by {name}" if len(values) > 1 else "the one seed"


def look(config: Config, params: ModelParams) -> tuple[Example, dict[str, Inside]]:
    """Run one evaluation sequence through a model of one seed; give it, and its LSTMs by name."""
    task, model = config.task, build(config)
    batch = jax.device_get(evaluation_batch(config))  # NumPy's: each small operation on a device would be compiled
    picture = task.picture(batch) if hasattr(task, "picture") else Picture()
    B, T, _ = batch.x.shape
    lengths = np.full(B, T) if batch.lengths is None else batch.lengths
    row = _median(lengths) if picture.row is None else picture.row
    first, last = picture.steps or (0, min(int(lengths[row]), LONGEST if task.every_step else T))
    if task.every_step:
        T = last  # nothing behind it is drawn
    few = max(1, min(PROBED, B, PROBED_VALUES // (T * config.model.units)))
    rows = np.append(np.delete(np.arange(B), row)[: few - 1], row)  # the one drawn comes last
    lengths = np.minimum(lengths[rows], T)
    cut = Batch(batch.x[rows, :T], (), None if batch.lengths is None else jnp.asarray(lengths, jnp.int32))
    if batch.reset is not None:
        cut = cut._replace(reset=batch.reset[rows, :T])
    trace, cells, outputs = jax.device_get(jax.jit(_run, static_argnums=0)(model, params, cut))

    target = batch.target if picture.target is None else picture.target
    target = jax.tree.map(lambda a: np.asarray(a[row]), target)
    example = _example(task, picture, (first, last), np.asarray(cut.x[-1]), outputs, target)
    valid = np.arange(T)[None] < lengths[:, None]
    inside = {}
    for (name, one), c in zip(_by_name(trace), cells, strict=True):
        shown = jax.tree.map(lambda a: np.asarray(a[first:last], np.float32), one)
        scale = np.abs(np.where(valid[..., None], c, 0)).max(axis=(0, 1))
        if picture.memory is None:
            inside[name] = Inside(shown, scale, *_by_slowness(c, valid), probe=None)
        else:
            memory = np.asarray(picture.memory, np.float64)[rows, :T]
            memory = np.where(valid, memory, np.nan)
            inside[name] = Inside(shown, scale, *_by_memory(c, memory, picture.memory_name, (first, last)))
    return example, inside


def _median(lengths: np.ndarray) -> int:
    return int(np.flatnonzero(lengths == np.sort(lengths)[len(lengths) // 2])[0])


def _run(model: SequenceModel, params: ModelParams, batch: Batch) -> tuple[Any, list[jax.Array], jax.Array]:
    """Give the trace of the last row [T, N], the cells of all rows [B, T, N], and the outputs of the last [T, K]."""
    options = {"lengths": batch.lengths, "reset": batch.reset}
    state = model.initial_state(batch.x.shape[0])
    trace = jlstm.inspect(model.layer, params.lstm, state, batch.x, **options)
    lstms = [one for _, one in _by_name(trace)]
    outputs = model.apply(params, state, batch.x, **options)[1][-1]
    if outputs.ndim == 1:
        T = batch.x.shape[1]
        if _reads_forwards(model.layer):
            outputs = read(params.readout, lstms[-1].h[-1].astype(outputs.dtype))
        else:
            last = T - 1 if batch.lengths is None else batch.lengths[-1] - 1
            outputs = jnp.full((T, outputs.shape[0]), jnp.nan, outputs.dtype).at[last].set(outputs)
    return jax.tree.map(lambda a: a[-1], trace), [one.c for one in lstms], outputs


def _reads_forwards(layer: Any) -> bool:
    """Whether a layer's outputs are the h of its last LSTM, step by step."""
    layer = layer.layers[-1] if isinstance(layer, jlstm.Stack) else layer
    return isinstance(layer, jlstm.LSTM) and not layer.go_backwards


def _by_name(trace: Any, name: str = "") -> Iterator[tuple[str, jlstm.LSTMTrace]]:
    if isinstance(trace, jlstm.LSTMTrace):
        yield name or "the layer", trace
    elif isinstance(trace, jlstm.Directions):
        for direction in ("forward", "backward"):
            yield from _by_name(getattr(trace, direction), f"{name}, {direction}" if name else direction)
    else:
        for number, one in enumerate(trace, 1):
            yield from _by_name(one, f"layer {number}")


def _example(
    task: Any, picture: Picture, steps: tuple[int, int], x: np.ndarray, outputs: np.ndarray, target: Any
) -> Example:
    """Cut to the steps, and find out what the target is by shapes and dtypes."""
    first, last = steps
    K = outputs.shape[1]

    def placed(value: np.ndarray, empty: Any) -> np.ndarray:
        """Give the target of every step drawn; where there is one alone it belongs to the last step."""
        if task.every_step:
            return value[first:last]
        return np.concatenate([np.full((last - first - 1, *value.shape), empty, value.dtype), value[None]])

    axes = (None,) if task.every_step else ()  # a target's T may be that of the whole sequence
    values = classes = legal = None
    for leaf in map(np.asarray, jax.tree.leaves(target)):
        steps_of, rest = leaf.shape[: len(axes)], leaf.shape[len(axes) :]
        if steps_of and steps_of[0] < last:
            continue
        if np.issubdtype(leaf.dtype, np.integer) and rest == () and K > 1:
            classes = placed(leaf, -1) if classes is None else classes
        elif leaf.dtype == bool and rest == (K,) and K > 1:
            legal = placed(leaf, False) if legal is None else legal
        elif rest == (K,) or (K == 1 and rest == ()):
            values = placed(leaf.reshape(*steps_of, K).astype(float), np.nan) if values is None else values
    chances = classes is not None or legal is not None
    draw = picture.output or (lambda a: jax.nn.softmax(a, axis=-1) if chances else a)
    drawn = np.asarray(draw(jnp.asarray(outputs)[None]))[0]
    return Example(
        first, picture.row_name, task.every_step, x[first:last], picture.inputs, drawn[first:last], picture.outputs,
        values, classes, legal,
    )  # fmt: skip


def _by_slowness(c: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, str]:
    """Sort the units [B, T, N] by how well their cell predicts itself one step later, the best first."""
    both = (valid[:, 1:] & valid[:, :-1])[..., None]
    mean = np.sum(c, axis=1, where=valid[..., None], keepdims=True) / np.maximum(valid.sum(axis=1), 1)[:, None, None]
    moved = np.sum(np.square(np.diff(c, axis=1)), axis=(0, 1), where=both)
    spread = np.sum(np.square(c - mean), axis=(0, 1), where=valid[..., None])
    return np.argsort(moved / (spread + 1e-9), kind="stable"), "from the slowest cell to the fastest"


def _by_memory(
    c: np.ndarray, memory: np.ndarray, name: str, steps: tuple[int, int]
) -> tuple[np.ndarray, str, Probe | None]:
    """Sort the units [B, T, N] by the correlation of their cell with memory [B, T], and probe them; B - 1 is drawn."""
    known = np.isfinite(memory)
    fitted = known & (np.arange(len(c)) < (len(c) + 1) // 2)[:, None]
    tested = known & ~fitted if len(c) > 1 else known
    X, y = c[fitted], memory[fitted]
    correlation = _columns(X - X.mean(axis=0)).T @ _columns((y - y.mean())[:, None])[:, 0]
    order = np.argsort(-correlation, kind="stable")
    words = f"by the correlation of their cell with {name}, the highest first"

    def fit(columns: np.ndarray) -> tuple[np.ndarray, float]:
        def with_one(c):
            return np.concatenate([c[..., columns], np.ones((*c.shape[:-1], 1))], axis=-1)

        weights = np.linalg.lstsq(with_one(X.astype(np.float64)), y, rcond=None)[0]
        error = memory[tested] - with_one(c[tested]) @ weights
        r2 = 1 - np.sum(error**2) / max(np.sum((memory[tested] - memory[tested].mean()) ** 2), 1e-12)
        return np.where(known[-1], with_one(c[-1]) @ weights, np.nan)[slice(*steps)], float(r2)

    unit = int(np.argmax(np.abs(correlation)))
    probe = Probe(name, memory[-1][slice(*steps)], unit, *fit(np.array([unit])), *fit(np.arange(c.shape[-1])))
    return order, words, probe


def _columns(a: np.ndarray) -> np.ndarray:
    """Scale columns to norm 1; those of zeros stay."""
    return a / np.maximum(np.linalg.norm(a, axis=0), 1e-9)
