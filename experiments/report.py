"""What a run leaves for a reader: summary, curve, weights, and one self-contained HTML page."""

import base64
import html
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from matplotlib.figure import Figure

from experiments import examples, heatmaps, plots, results
from experiments.config import Config, Experiment
from experiments.model import ModelParams, build
from experiments.rundir import MARKER, read_lines, saved_environment, write
from experiments.scoring import make_predict
from jlstm.describe import PAGE


class Drawing(NamedTuple):
    """A picture of a page, and what a reader has to know of it."""

    png: bytes
    note: str = ""


class Section(NamedTuple):
    """One run's part of a page. lines: its metrics.jsonl. figures: by title."""

    config: Config
    summary: dict[str, Any]
    lines: list[dict[str, Any]]
    figures: dict[str, Drawing]


def finish(
    config: Config, path: Path, params: ModelParams, step: int, seconds: float, second: Mapping[str, Any]
) -> Section:
    """Write a run's summary.json, curve.png and model.safetensors, and hand back its part of the page.

    Args:
        config: the run's.
        path: its directory.
        params: the trained parameters, leading axis S.
        step: updates behind them; what metrics.jsonl holds of later ones is not theirs.
        seconds: wall time of the training.
        second: their scores on the second evaluation set.
    """
    lines = read_lines(path / "metrics.jsonl", step)
    predict = predictor(config, params)
    final = config.task.final(predict) if hasattr(config.task, "final") else {}
    summary = results.summarise(config, lines, final, seconds, second)
    write(path / "summary.json", json.dumps(summary, indent=1) + "\n")
    curve = _png(_curve(config, lines))
    write(path / "curve.png", curve)
    save_model(path / "model.safetensors", config, params)
    drawn = config.task.figures(predict) if hasattr(config.task, "figures") else {}
    figures = {"Training": Drawing(curve)} | {title: Drawing(_png(figure)) for title, figure in drawn.items()}
    return Section(config, summary, lines, figures | example_figures(config, params, summary))


def example_figures(config: Config, params: ModelParams, summary: Mapping[str, Any]) -> dict[str, Drawing]:
    """Draw one evaluation sequence through one of the models: from outside, and from inside each of its LSTMs."""
    seed, which = examples.median_seed(config, summary)
    example, lstms = examples.look(config, jax.tree.map(lambda leaf: leaf[seed], jax.device_get(params)))
    note = f"The sequence is {example.row_name}; the model is {which}."
    if not example.every_step and len(lstms) == 1:
        note += " It is trained at the last step alone: before, the readout shows what it would have said then."
    found = {"One evaluation sequence": Drawing(_png(heatmaps.outside(example)), note)}
    for name, inside in lstms.items():
        title = "Gates and cells over the same steps" + (f": {name}" if len(lstms) > 1 else "")
        drawing = _png(heatmaps.inside(example, inside))
        found[title] = Drawing(drawing, f"A row is a unit, in every panel the same; sorted {inside.sorted_by}.")
    return found


def predictor(config: Config, params: ModelParams) -> Callable[[Any], jax.Array]:
    """Build predict(x [B, T, D]) -> outputs [S, ...] of all seeds."""
    predict = make_predict(config)
    return lambda x: predict(params, jnp.asarray(x, jnp.float32))


def save_model(path: Path, config: Config, params: ModelParams) -> None:
    """Save the parameters by flat names, such as `lstm/kernel`, with the layer's spec in the metadata."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    tensors = {
        jax.tree_util.keystr(name, simple=True, separator="/"): np.ascontiguousarray(leaf) for name, leaf in leaves
    }
    spec = build(config).layer.to_dict()
    # One entry: safetensors writes several in an order of its own, and the file would differ from save to save.
    about = {"jlstm": json.dumps({"spec": spec, "axes": "the leading axis is the seed"})}
    write(path, safetensors.numpy.save(tensors, metadata=about))


def write_page(path: Path, experiment: Experiment, sections: Mapping[str, Section]) -> Path:
    """Write report.html: results, pictures, config and versions; nothing on it is loaded from elsewhere.

    Args:
        path: the directory.
        experiment: the config file's content.
        sections: by case, one under "" where there are no cases.
    """
    summaries = {name: section.summary for name, section in sections.items()}
    configs = {name: section.config for name, section in sections.items()}
    intro = re.sub(r"\n +", " ", experiment.header.replace(MARKER, "").strip())  # what was broken for a file flows here
    seconds = sum(summary["seconds"] for summary in summaries.values())
    parts = [
        f"<h1>{_text(experiment.name)}</h1>",
        f'<pre class="intro">{_text(intro)}</pre>' if intro else "",
        *(f'<p class="verdict {_mood(line)}">{_text(line)}</p>' for line in results.verdicts(configs, summaries)),
        "<h2>Results</h2>",
        table_of(results.rows(configs, summaries), results.COLUMNS),
        *(table_of(found[1:], found[0]) for s in summaries.values() if (found := results.final_rows(s))),
        f"<p>{_text(results.scale(configs, summaries))} Wall time {seconds:,.0f} s, compilation included.</p>",
    ]
    if len(sections) > 1:
        parts += [_figure("All cases", Drawing(_png(_comparison(sections))))]
    for name, section in sections.items():
        if name:
            parts.append(f"<h2>{_text(name)}</h2>")
        parts += [_figure(title, drawing) for title, drawing in section.figures.items()]
    saved = (path / "config.toml").read_text(encoding="utf-8")
    config_text = saved.split(MARKER)[-1].split("\n\n", 1)[-1].strip()
    versions = "".join(f"<tr><td>{_text(k)}</td><td>{_text(v)}</td></tr>" for k, v in saved_environment(path).items())
    parts += [
        f"<h2>Config</h2><pre>{_text(config_text)}</pre>",
        f"<h2>Versions</h2><div class='wide'><table><tbody>{versions}</tbody></table></div>",
    ]
    page = path / "report.html"
    write(page, PAGE.format(title=_text(experiment.name), style=STYLE, body="\n".join(parts)))
    return page


def table_of(rows: Sequence[tuple[str, ...]], columns: Sequence[str]) -> str:
    """Lay out rows of text as an HTML table; columns that nobody fills are left out."""
    used = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    head = "".join(f"<th>{_text(columns[i])}</th>" for i in used)
    body = "".join("<tr>" + "".join(f"<td>{_text(row[i])}</td>" for i in used) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _curve(config: Config, lines: list[dict[str, Any]]) -> Figure:
    losses = [line["step"] for line in lines], np.array([line["losses"] for line in lines], float)
    scored = [line for line in lines if set(line) - {"step", "loss", "losses"}]
    names = _metrics(lines)
    steps = [line["step"] for line in scored]
    if config.target is not None:
        first = config.target.metric
        names.sort(key=lambda name: name != first)
    metrics = {name: (steps, np.array([line[name] for line in scored], float)) for name in names}
    marks: dict[str, dict[str, float]] = {
        name: {"baseline": value} for name, value in config.task.baseline().items() if name in metrics
    }
    if config.target is not None and config.target.metric in metrics:
        marks.setdefault(config.target.metric, {})["target"] = config.target.value
    return plots.curves(losses, metrics, marks, config.train.batch_size)


def _comparison(sections: Mapping[str, Section]) -> Figure:
    """Draw the metric of the first target (or the first metric) of all cases over the sequences that they saw."""
    every = [set(_metrics(section.lines)) for section in sections.values()]
    common = [name for name in _metrics(next(iter(sections.values())).lines) if all(name in names for names in every)]
    targets = [s.config.target for s in sections.values() if s.config.target is not None]
    wanted = [target.metric for target in targets if target.metric in common]
    name = (wanted or common)[0]
    cases = {}
    for case, section in sections.items():
        scored = results.evaluations(section.lines)
        seen = np.array([section.config.sequences(line["step"]) for line in scored])
        cases[case] = seen, np.array([line[name] for line in scored], float)
    marks = {s.config.task.baseline().get(name) for s in sections.values()} - {None}
    levels = {t.value for t in targets if t.metric == name}
    lines = {"baseline": marks.pop()} if len(marks) == 1 else {}
    return plots.comparison(name, cases, lines | ({"target": levels.pop()} if len(levels) == 1 else {}))


def _metrics(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Name the metrics of the last evaluation."""
    scored = results.evaluations(lines)
    return [name for name in (scored[-1] if scored else {}) if name not in ("step", "loss", "losses")]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _figure(title: str, drawing: Drawing) -> str:
    data = base64.b64encode(drawing.png).decode()
    note = f"<p>{_text(drawing.note)}</p>" if drawing.note else ""
    return (
        f'<figure><figcaption><strong>{_text(title)}</strong>{note}</figcaption><div class="wide"><img '
        f'alt="{_text(title)}" src="data:image/png;base64,{data}"></div></figure>'
    )


def _mood(line: str) -> str:
    return "met" if ": met" in line else "missed"


def _text(value: str) -> str:
    return html.escape(value)


STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --soft: #f3f4f6; --line: #d5d8dd; --good: #17693a;
  --bad: #a3261c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #15171a; --soft: #202429; --line: #3a4048;
  --good: #6fcf97; --bad: #ff8a7a; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
pre { background: var(--soft); padding: .75rem; overflow-x: auto; font-size: .85rem; border-radius: 6px; }
pre.intro { white-space: pre-wrap; font-family: inherit; font-size: .95rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.verdict { font-weight: 600; } .met { color: var(--good); } .missed { color: var(--bad); }
figure { margin: 1rem 0 1.5rem; } figcaption { margin-bottom: .4rem; } figcaption p { margin: .2rem 0; }
img { width: 100%; min-width: 30rem; max-width: 52rem; height: auto; background: #fff; border-radius: 6px; }
"""
