"""The command line: `python -m experiments train CONFIG`, `sweep CONFIG`, `evaluate DIR`, `report DIR`, `reproduce`.

Exit status: 0 done; 1 a target was missed under --check; 2 the arguments, the config or the directory cannot be used;
3 a run stopped before its end; 4 a mistake of ours, with its traceback; 130 interrupted.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from experiments import cases, checkpoint, distributed, report, reproduce, results, rundir, scoring, sweep, train
from experiments import config as configs
from experiments.config import ConfigError, Experiment
from experiments.rundir import RunError, Stopped
from experiments.tasks.datasets import MissingPackage
from experiments.train import plain_scores as plain

OK, MISSED, UNUSABLE, STOPPED, CRASHED, INTERRUPTED = 0, 1, 2, 3, 4, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors are one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except ConfigError as error:
        return _fail(error, UNUSABLE)
    except Stopped as error:
        return _fail(error, STOPPED)
    except (RunError, MissingPackage) as error:
        return _fail(error, UNUSABLE)
    except distributed.Ended as end:
        return end.status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads: say no more at the exit
        return _fail(f"stdout was closed{_going_on(arguments)}", STOPPED)
    except Exception:
        traceback.print_exc()
        return CRASHED
    except KeyboardInterrupt:
        return _fail(f"interrupted{_going_on(arguments)}", INTERRUPTED)


def train_command(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Train a config, or all cases of it, in its run directory."""
    experiment = configs.load(options.config, overrides)
    if options.cases:
        experiment = _only(experiment, options.cases, options.config)
    with distributed.session(distributed.parse(options), configs.to_toml(experiment)) as devices:
        cases.check(experiment, options.config, devices)
        if not devices.first:
            cases.follow(experiment, devices)
            return OK
        path = rundir.choose(experiment.name, options.out, options.resume, options.overwrite)
        console = Console(markup=False)
        how = {"resume": options.resume, "overwrite": options.overwrite, "profile": options.profile}
        sections, page = cases.train_all(experiment, path, console, devices=devices, **how)
        return _conclude(console, experiment, sections, page, options.check)


def evaluate_command(options: argparse.Namespace) -> int:
    """Score a run's newest checkpoint afresh, and print the table."""
    path = Path(options.run)
    experiment = _saved(path)
    found, described = {}, {}
    with rundir.clear_errors(path), rundir.locked(path):
        for name, config, folder in cases.runs(experiment, path):
            step, params = train.restore(config, folder)
            scores = scoring.make_scores(config)
            predict = report.predictor(config, params)
            final = config.task.final(predict) if hasattr(config.task, "final") else {}
            earlier = [line for line in rundir.read_lines(folder / "metrics.jsonl") if line["step"] < step]
            lines = [*earlier, {"step": step, "loss": None, "losses": None, **plain(scores.evaluate(params))}]
            second = plain(scores.second(params)) if results.finished(config, lines) else {}
            summary = results.summarise(config, lines, final, 0.0, second)
            found[name], described[name] = summary, config
    steps = ", ".join(sorted({f"{summary['steps']:,}" for summary in found.values()}))
    cases.show(Console(markup=False), described, found, f"{experiment.name}, evaluated at step {steps}")
    return OK


def reproduce_command(options: argparse.Namespace) -> int:
    """Run the rows that have no result, and assemble the table of the papers' figures beside ours."""
    rows = [name.strip() for name in options.rows.split(",")] if options.rows else list(reproduce.ROWS)
    for name in rows:
        if name not in reproduce.ROWS:
            raise ConfigError(f"command line: --rows must name rows, {', '.join(reproduce.ROWS)}; got {name!r}")
    failed, missed = reproduce.reproduce(rows, Console(markup=False), quick=options.quick, fresh=options.fresh)
    return STOPPED if failed else MISSED if missed else OK


def report_command(options: argparse.Namespace) -> int:
    """Rebuild a run's summary, pictures and page from its directory."""
    path = Path(options.run)
    experiment = _saved(path)
    sections = {}
    with rundir.clear_errors(path), rundir.locked(path):
        for name, config, folder in cases.runs(experiment, path):
            if name and not checkpoint.steps(folder / "checkpoints"):
                print(f"{folder} has no checkpoint yet and is left out", file=sys.stderr)
                continue
            step, params = train.restore(config, folder)
            timing = rundir.read_lines(folder / "timing.jsonl", step)
            seconds = timing[-1]["seconds"] if timing else 0.0
            done = results.finished(config, rundir.read_lines(folder / "metrics.jsonl", step))
            second = plain(scoring.make_scores(config).second(params)) if done else {}
            sections[name] = report.finish(config, folder, params, step, seconds, second)
            if name:
                cases.own_page(folder, name, config, sections[name])
        page = report.write_page(path, experiment, sections)
    print(page)
    return OK


def _conclude(
    console: Console, experiment: Experiment, sections: Mapping[str, report.Section], page: Path, check: bool
) -> int:
    summaries = {name: section.summary for name, section in sections.items()}
    described = {name: section.config for name, section in sections.items()}
    seconds = sum(summary["seconds"] for summary in summaries.values())
    cases.show(console, described, summaries, f"{experiment.name}, {seconds:,.0f} s")
    console.print(f"report: {page}", highlight=False, soft_wrap=True)
    return MISSED if check and not results.met(summaries) else OK


def _only(experiment: Experiment, names: str, file: str) -> Experiment:
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in experiment.cases:
            allowed = ", ".join(experiment.cases) or "none (the config has no [[cases]])"
            raise ConfigError(f"{file}: --cases must name cases of it, {allowed}; got {name!r}")
    kept = {name: config for name, config in experiment.cases.items() if name in wanted}
    return Experiment(experiment.name, experiment.base, kept, experiment.header)


def _saved(path: Path) -> Experiment:
    for folder in (path, path.parent):
        if (folder / "sweep.json").exists():
            raise RunError(
                f"{folder} is a sweep: read sweep.md and sweep.png there; "
                f"`train {folder}/config.toml --cases NAME` makes a run of one member"
            )
    if not rundir.is_run(path):
        raise RunError(f"{path} is no run directory: it has no config.toml written by `python -m experiments train`")
    return configs.load(path / "config.toml")


def _dispatch(arguments: list[str]) -> int:
    parser = _Parser(
        prog="python -m experiments", description="Train and look at experiments with jlstm.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    trainer = commands.add_parser(
        "train", help="train a config", allow_abbrev=False, add_help=False,
        usage="%(prog)s CONFIG [--out DIR] [--resume | --overwrite] [--check] [--cases A,B] [--profile]"
        " [--distributed] [--TABLE.KEY VALUE ...]",
        epilog="Any key of the config can be overridden: --train.steps 9 --model.units 64 --model.lstm.activation relu."
        " `train CONFIG --help` lists them.",
    )  # fmt: skip
    trainer.add_argument("config", metavar="CONFIG", nargs="?", help="a file of configs/")
    _add_directory(trainer, "runs/<config name>")
    trainer.add_argument("--check", action="store_true", help="exit status 1 when a target is missed")
    trainer.add_argument("--cases", metavar="A,B", help="only these of the config's cases")
    trainer.add_argument("--profile", action="store_true", help="write a profile of a few calls to DIR/profile")
    distributed.add_arguments(trainer)
    trainer.add_argument("-h", "--help", action="store_true", help="show this, and with CONFIG its keys")
    sweeper = commands.add_parser("sweep", help="train a config's variants", allow_abbrev=False, usage=sweep.USAGE)
    sweep.add_arguments(sweeper)
    _add_directory(sweeper, "runs/<config name>-sweep")
    for name, text in (
        ("evaluate", "score a run's last checkpoint"),
        ("report", "rebuild a run's report.html"),
    ):
        commands.add_parser(name, help=text, allow_abbrev=False).add_argument("run", metavar="RUN_DIR")
    reproducer = commands.add_parser(
        "reproduce", allow_abbrev=False, help="the papers' tables: what they report beside what we measure"
    )
    reproducer.add_argument("--rows", metavar="A,B", help=f"only these: {', '.join(reproduce.ROWS)}")
    how = reproducer.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="smaller versions of the rows that have one, in ten minutes")
    how.add_argument("--fresh", action="store_true", help="run again what has a result already")
    options, overrides = parser.parse_known_args(arguments)
    if options.command == "sweep":
        sweep.command(options, overrides)
        return OK
    if options.command != "train":
        if overrides:
            raise ConfigError(f"command line: unknown argument {overrides[0]}; see {options.command} --help")
        return {"evaluate": evaluate_command, "report": report_command, "reproduce": reproduce_command}[
            options.command
        ](options)
    if options.help:
        trainer.print_help()
        if options.config:
            configs.load(options.config, ["--help"])
        return OK
    if options.config is None:
        raise ConfigError("command line: train needs a CONFIG, such as configs/smoke.toml")
    return train_command(options, overrides)


def _add_directory(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--out", metavar="DIR", help=f"run directory (default {default}, numbered where taken)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--resume", action="store_true", help="go on from the last checkpoint, to the same bits")
    how.add_argument("--overwrite", action="store_true", help="delete the run that the directory holds")


def _going_on(arguments: Sequence[str]) -> str:
    """Say how a command that was stopped goes on, where it can."""
    command = arguments[0] if arguments else ""
    if command in ("train", "sweep"):
        return "; the same command with --resume goes on from the last checkpoint"
    if command == "reproduce" and "--quick" not in arguments:
        return "; the same command, without --fresh, goes on from the last checkpoint"
    return ""


def _fail(error: object, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"command line: {message}; see {self.prog} --help")


if __name__ == "__main__":
    distributed.leave(main())
