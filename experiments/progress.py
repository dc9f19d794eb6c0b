"""Progress: a bar in a terminal, a few plain lines where the output is no terminal."""

import contextlib
import time
from collections.abc import Callable, Iterator

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.config import Target
from experiments.results import number

PLAIN_LINES = 10  # about as many lines a run where there is no terminal
Report = Callable[[int, float, dict[str, list]], None]


@contextlib.contextmanager
def shown(console: Console, name: str, steps: int, target: Target | None) -> Iterator[Report]:
    """Show the steps, the loss, the last metrics (the target's alone, where there is one), steps a second, time left.

    Yields:
        report(step, loss, metrics), which `train.run` calls.
    """
    rate = _Rate()
    latest: dict[str, str] = {}

    def describe(loss: float, metrics: dict[str, list]) -> str:
        only = [target.metric] if target is not None and target.metric in metrics else list(metrics)
        for key in only:
            values = metrics[key]
            finite = [v for v in values if v is not None]
            latest[key] = number(float(np.median(finite))) if finite else "nan"
        return "  ".join([f"loss {number(loss)}", *(f"{k} {v}" for k, v in latest.items())])

    if not console.is_terminal:
        due = 0.0

        def plain(step: int, loss: float, metrics: dict[str, list]) -> None:
            nonlocal due
            text, speed = describe(loss, metrics), rate(step)
            if step >= due or step == steps:
                due = step + steps / PLAIN_LINES
                console.print(f"{name}  step {step}/{steps}  {text}  {speed}", highlight=False, soft_wrap=True)

        yield plain
        return

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
    )
    with Progress(*columns, TextColumn("{task.fields[text]}"), TimeRemainingColumn(), console=console) as bar:
        row = bar.add_task(name, total=steps, text="compiling")

        def move(step: int, loss: float, metrics: dict[str, list]) -> None:
            bar.update(row, completed=step, text=f"{describe(loss, metrics)}  {rate(step)}")

        yield move


class _Rate:
    """Steps a second since the second report: the first two stand behind the compilation of steps and evaluation."""

    def __init__(self) -> None:
        self._first: list[tuple[float, int]] = []

    def __call__(self, step: int) -> str:
        now = time.monotonic()
        if len(self._first) < 2:
            self._first.append((now, step))
            return ""
        began, first = self._first[1]
        return f"{(step - first) / max(now - began, 1e-9):.0f} steps/s"
