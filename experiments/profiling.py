"""A profile of a few calls of a training run, by jax.profiler."""

from pathlib import Path
from typing import Any

import jax

CALLS = 3  # that are profiled: enough to see what repeats; a file of some 10 MB


class Profiler:
    """Profile the first calls after the first evaluation, when all that a run repeats has been compiled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._first: int | None = None  # the first profiled step - 1
        self._calls = 0
        self._last: int | None = None

    def before_call(self, step: int, warm: bool, state: Any) -> None:
        """Start or stop where it is time to.

        Args:
            step: updates before the call.
            warm: an evaluation has been made.
            state: what the calls before compute, waited for at both ends.
        """
        if self._last is not None:
            return
        if self._first is not None:
            self._calls += 1
            if self._calls == CALLS:
                self.close(step, state)
        elif warm:
            jax.block_until_ready(state)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # its events of every Python function bury the rest
            jax.profiler.start_trace(self.folder, create_perfetto_trace=True, profiler_options=options)
            self._first = step

    def close(self, step: int, state: Any = None) -> None:
        """Stop, at the run's end at the latest, and write."""
        if self._first is not None and self._last is None:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._last = step

    def __str__(self) -> str:
        if self._first is None or self._last is None:
            return "profile: none, the run ended before its first evaluation was over"
        path = max(self.folder.glob("plugins/profile/*/perfetto_trace.json.gz"))
        return (
            f"profile of steps {self._first + 1} to {self._last}: {path}; open it at https://ui.perfetto.dev, or the "
            f"directory in TensorBoard or XProf: xprof --logdir {self.folder}"
        )
