"""An experiment from its config to its report: every case trained in a directory of its own, and concluded."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console

from experiments import progress, report, results, rundir, scoring, train
from experiments.config import Config, Experiment
from experiments.devices import ONE, Devices
from experiments.profiling import Profiler


def runs(experiment: Experiment, path: Path) -> list[tuple[str, Config, Path]]:
    """List (case, config, directory) of every run of an experiment; one without cases is its own."""
    if not experiment.cases:
        return [("", experiment.base, path)]
    return [(name, config, path / name) for name, config in experiment.cases.items()]


def check(experiment: Experiment, where: str, devices: Devices = ONE) -> None:
    """Raise what can be known to be wrong with any of the cases before one is trained."""
    for config in experiment.cases.values() or [experiment.base]:
        scoring.check(config, where)
        devices.check(config, where)


def train_all(
    experiment: Experiment,
    path: Path,
    console: Console,
    *,
    resume: bool = False,
    overwrite: bool = False,
    devices: Devices = ONE,
    profile: bool = False,
) -> tuple[dict[str, report.Section], Path]:
    """Train every case, locked and resumable, profiled if asked, and write its report.

    Returns:
        (sections, page): by case, under "" where there are none; the report's path.
    """
    devices.awaited = True
    with rundir.clear_errors(path), rundir.locked(path):
        resuming = resume and rundir.is_run(path)
        rundir.prepare(path, experiment, resume, overwrite)
        if resume and not resuming:
            console.print(f"nothing to resume in {path}: starting at step 0")
        if devices.mesh is not None:
            console.print(f"on {devices}", highlight=False)
        sections = {}
        for name, config, folder in runs(experiment, path):
            with _case_directory(folder, name, config, resume, overwrite):
                sections[name] = _train_one(config, folder, name or experiment.name, console, devices, profile)
                if name:
                    own_page(folder, name, config, sections[name])
        page = report.write_page(path, experiment, sections)
    return sections, page


def follow(experiment: Experiment, devices: Devices) -> None:
    """Train every case as a process that is not the first: compute, and write and say nothing."""
    for _, config, folder in runs(experiment, Path(experiment.name)):
        train.run(config, folder, lambda step, loss, metrics: None, devices)


def own_page(folder: Path, name: str, config: Config, section: report.Section) -> None:
    """Write the page of one case alone."""
    report.write_page(folder, Experiment(name, config), {"": section})


def show(console: Console, described: Mapping[str, Config], summaries: Mapping[str, dict], title: str) -> None:
    """Print what an experiment ends with: the table, the scale, final figures, a verdict for each target."""
    console.print(results.table(described, summaries, title))
    console.print(results.scale(described, summaries), highlight=False, soft_wrap=True)
    for summary in summaries.values():
        if (final := results.final_table(summary)) is not None:
            console.print(final)
    for line in results.verdicts(described, summaries):
        console.print(line, style="bold red" if "MISSED" in line else "bold green", highlight=False, soft_wrap=True)


def _train_one(
    config: Config, folder: Path, name: str, console: Console, devices: Devices, profile: bool
) -> report.Section:
    profiler = Profiler(folder / "profile") if profile else None
    with progress.shown(console, name, config.train.steps, config.target) as shown:
        done = train.run(config, folder, shown, devices, profiler=profiler)
    if profiler is not None:
        console.print(str(profiler), highlight=False, soft_wrap=True)
    return report.finish(config, folder, done.params, done.step, done.seconds, done.second)


@contextlib.contextmanager
def _case_directory(folder: Path, name: str, config: Config, resume: bool, overwrite: bool) -> Iterator[None]:
    """Lock and prepare a case's own directory; a run without cases has none."""
    if not name:
        yield
        return
    with rundir.locked(folder):
        rundir.prepare(folder, Experiment(name, config), resume, overwrite)
        yield
