"""What a task is (the protocol), the batch it hands over, and the table of tasks by name.

A task is one frozen dataclass in one file of this package: data, encoding, loss, metrics, trivial baseline and
source together. Its fields are the keys of a config's `[task]` table. Data are a pure function of a key, so a
training step draws its own batch on the device and a resumed run sees the batches that it would have seen.
"""

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


@runtime_checkable
class Task(Protocol):
    """The methods that the runner calls; every one is pure.

    Two more are optional, and called once at the end of a run, over all seeds together. `predict` maps
    x [B, T, D] to outputs [S, B, T, K] (every_step) or [S, B, K], S seeds:

    - `final(predict) -> dict[str, float]`: figures that no single model has, such as an ensemble's error. Names
      of the form "test MSE/AR(9)" are laid out as a table with a row for what stands before the slash.
    - `figures(predict) -> dict[str, matplotlib.figure.Figure]`: pictures for the report, by title.
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
from experiments.tasks.average import MovingAverage  # noqa: E402
from experiments.tasks.copy_memory import CopyMemory  # noqa: E402
from experiments.tasks.lag import Lag  # noqa: E402
from experiments.tasks.number_addition import NumberAddition  # noqa: E402
from experiments.tasks.parity import Parity  # noqa: E402
from experiments.tasks.reber import EmbeddedReber  # noqa: E402
from experiments.tasks.sunspots import Sunspots  # noqa: E402

TASKS: dict[str, type] = {
    "adding": Adding,
    "copy_memory": CopyMemory,
    "embedded_reber": EmbeddedReber,
    "stateful_average": MovingAverage,
    "lag": Lag,
    "number_addition": NumberAddition,
    "parity": Parity,
    "sunspots": Sunspots,
}
