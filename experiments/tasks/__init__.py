"""What a task is (the protocol), the batch it hands over, and the table of tasks by name.

A task is one frozen dataclass in one file of this package: data, encoding, loss, metrics, trivial baseline and
source together. Its fields are the keys of a config's `[task]` table. Data are a pure function of a key, so a
training step draws its own batch on the device and a resumed run sees the batches that it would have seen.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

Array = jax.Array


class Batch(NamedTuple):
    """One batch of sequences.

    x: [B, T, D] float32.
    target: the task's own pytree, leading axis B.
    lengths: [B] int32, right padding; None where every row is T steps long.
    reset: [B, T] bool, True where the state starts afresh before that step; None where it never does.
    """

    x: Array
    target: Any
    lengths: Array | None = None
    reset: Array | None = None


class Picture(NamedTuple):
    """How a batch reads in the report's pictures; what is None is guessed from the arrays.

    inputs: D names of the columns of x; one letter each where x is one-hot.
    outputs: K names of the outputs.
    target: what stands beside the outputs, instead of batch.target: values [B, T, K], NaN where there is none, or
        classes [B, T] int, -1 where there is none; without T unless every_step.
    output: what is drawn of the outputs [B, ..., K], such as jax.nn.sigmoid; None: softmax where the target is
        classes or a set of them, and the outputs as they are elsewhere.
    memory: [B, T] (or only the steps that are drawn and those before), what has to be known after each step to answer
        later ones; NaN where nothing has.
    memory_name: it in words, "the sum of the marked values so far".
    row: the sequence that is drawn; None: the first of median length.
    row_name: why that one, in words.
    steps: its first and last step (exclusive) that are drawn; None: all, or the first 120 of a longer one with a
        target at every step.
    """

    inputs: Sequence[str] | None = None
    outputs: Sequence[str] | None = None
    target: Any = None
    output: Callable[[Array], Array] | None = None
    memory: Any = None
    memory_name: str = ""
    row: int | None = None
    row_name: str = "the first of median length"
    steps: tuple[int, int] | None = None


@runtime_checkable
class Task(Protocol):
    """The methods that the runner calls; every one is pure.

    Five more are optional. The first three come in once at the end of a run, two of them over all seeds together, where
    `predict` maps x [B, T, D] to outputs [S, B, T, K] (every_step) or [S, B, K], S seeds:

    - `final(predict) -> dict[str, float]`: figures that no single model has, such as an ensemble's error. Names
      of the form "test MSE/AR(9)" are laid out as a table with a row for what stands before the slash.
    - `figures(predict) -> dict[str, matplotlib.figure.Figure]`: pictures for the report, by title.
    - `picture(batch) -> Picture`: names, and what a cell has to remember, for the pictures of one evaluation sequence.
      The batch is the evaluation set in NumPy's arrays, and so are those of the Picture.
    - `second_parts: int`: how many evaluation sets make the second one, where one of the size that the paper asks would
      not fit in memory; `metrics` then sees a batch without x.
    - `of_test(name) -> bool`: whether a metric or final figure is of the test data, by which no sweep may choose; a
      task without it has none, for each run draws its data afresh.
    """

    @property
    def input_size(self) -> int:
        """D, the width of x."""
        ...

    @property
    def output_size(self) -> int:
        """K, the width of the readout."""
        ...

    @property
    def every_step(self) -> bool:
        """True: outputs [B, T, K], a readout at every step. False: [B, K], after the last valid step."""
        ...

    @property
    def loss_on(self) -> str:
        """Which steps carry loss, in words for the table of results: "every step", "the last step"."""
        ...

    def stream(self, key: Array, batch_size: int) -> Any:
        """Start the data's own carry for endless streams; () where samples are independent."""
        ...

    def sample(self, key: Array, stream: Any, batch_size: int) -> tuple[Any, Batch]:
        """Draw a fresh training batch on the device, from the key (and the stream) alone; jittable."""
        ...

    def loss(self, outputs: Array, batch: Batch) -> Array:
        """Mean over what carries loss, a scalar."""
        ...

    def evaluation(self, key: Array) -> Batch:
        """Draw the unseen evaluation set; one key gives one set; jittable."""
        ...

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """Score one model's outputs on the evaluation set, a scalar for each name."""
        ...

    def baseline(self) -> dict[str, float]:
        """The trivial predictor's value of the main metrics; the docstring says where it comes from."""
        ...


# The tasks import Batch from here, so these imports come after it.
from experiments.tasks.adding import Adding  # noqa: E402
from experiments.tasks.adding_unit import AddingUnit  # noqa: E402
from experiments.tasks.average import MovingAverage  # noqa: E402
from experiments.tasks.characters import Characters  # noqa: E402
from experiments.tasks.continual_reber import ContinualReber  # noqa: E402
from experiments.tasks.copy_memory import CopyMemory  # noqa: E402
from experiments.tasks.counting import Counting  # noqa: E402
from experiments.tasks.digits import Digits  # noqa: E402
from experiments.tasks.japanese_vowels import JapaneseVowels  # noqa: E402
from experiments.tasks.lag import Lag  # noqa: E402
from experiments.tasks.long_lag import LongLag  # noqa: E402
from experiments.tasks.mnist1d import MNIST1D  # noqa: E402
from experiments.tasks.multiplication import Multiplication  # noqa: E402
from experiments.tasks.number_addition import NumberAddition  # noqa: E402
from experiments.tasks.parity import Parity  # noqa: E402
from experiments.tasks.reber import EmbeddedReber  # noqa: E402
from experiments.tasks.sunspots import Sunspots  # noqa: E402
from experiments.tasks.temporal_order import TemporalOrder  # noqa: E402
from experiments.tasks.time_lag import TimeLag  # noqa: E402
from experiments.tasks.timing import Timing  # noqa: E402
from experiments.tasks.two_sequence import TwoSequence  # noqa: E402

TASKS: dict[str, type] = {
    "adding": Adding,
    "characters": Characters,
    "digits": Digits,
    "japanese_vowels": JapaneseVowels,
    "mnist1d": MNIST1D,
    "adding_unit": AddingUnit,
    "continual_reber": ContinualReber,
    "counting": Counting,
    "copy_memory": CopyMemory,
    "embedded_reber": EmbeddedReber,
    "lag": Lag,
    "multiplication": Multiplication,
    "number_addition": NumberAddition,
    "parity": Parity,
    "stateful_average": MovingAverage,
    "sunspots": Sunspots,
    "temporal_order": TemporalOrder,
    "timing": Timing,
    "long_lag": LongLag,
    "time_lag": TimeLag,
    "two_sequence": TwoSequence,
}
