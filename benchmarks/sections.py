"""The sections of a run: each checks that all peers compute the same numbers, times them, and gives a table.

A table is plain data, as it goes into the JSON: section, shape, gflop (of one call, or None), rows {peer: {kind,
median, min, max, samples, cores}} in seconds, and left_out {peer: reason}.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import cases, keras_tf, libraries, native, peers
from benchmarks.cases import MIDDLE, MODELS, Shape
from benchmarks.measure import BLOCK, PEAK, REST, Timing, measure, peak_call

PEERS: Mapping[str, type] = {
    "jlstm": peers.Jlstm,
    "jlstm-cpu": peers.JlstmCpu,
    "jlstm-xla": peers.JlstmXla,
    "scan": peers.Scan,
    "linen": libraries.Linen,
    "nnx": libraries.Nnx,
    "equinox": libraries.Equinox,
    "haiku": libraries.Haiku,
    "keras": libraries.Keras,
    "torch": native.Torch,
    "onnxruntime": native.OnnxRuntime,
    "keras-tf": keras_tf.KerasTensorFlow,
}
SWEEPS: Mapping[str, Sequence[int]] = {
    "T": (10, 30, 100, 300, 1000),
    "B": (1, 4, 16, 64, 256),
    "N": (16, 32, 64, 128, 256, 512),
}
SWEEP_PEERS = ("jlstm", "jlstm-xla", "scan", "linen", "keras", "torch", "onnxruntime")
COMPILED = ("forward", "step")
SHORT, MORE = 0.05, 4  # GFLOP of a call below which noise asks for so many times the samples, in longer blocks
MANY_CORES = 0.3  # GFLOP of a call from which on a library that stays on one core is worth a warning
ONE_CORE = 1.3  # CPU time over wall time below which it does


class Options(NamedTuple):
    """What holds for every section. say: prints a line; progress: shows what runs now."""

    peers: Sequence[str] = tuple(PEERS)
    samples: int = 12
    rest: float = REST
    say: Callable[[str], None] = print
    progress: Callable[[str], None] = lambda name: None


def timed(section: str, shape: Shape, options: Options, peak: list[float] | None = None) -> dict[str, Any]:
    """Time one section at one shape.

    Args:
        section: forward, step, many, streaming or streaming_numpy: the method of the peers that is timed.
        shape: what they compute on.
        options: see Options.
        peak: samples of the matrix product, seconds; measured with the peers and appended, unless None.
    """
    where, gflop = f"{section} {shape}", cases.gflop(shape, section)
    runs, kinds, left_out = _prepare(section, shape, options)
    calls = {name: run.call for name, run in runs.items()}
    if peak is not None and calls:
        calls[PEAK] = peak_call()
    more = MORE if gflop < SHORT else 1
    timings = measure(
        calls,
        options.samples * more,
        block=BLOCK * more,
        rest=options.rest,
        progress=lambda name: options.progress(f"{where}: {name}"),
    )
    if PEAK in timings:
        peak.extend(timings.pop(PEAK).samples)
    for name, timing in timings.items():
        elsewhere = timing.cores < 0.5  # in a process of its own
        if gflop >= MANY_CORES and timing.cores < ONE_CORE and not elsewhere:
            options.say(f"warning: {where}: {name} runs on {timing.cores:.1f} cores")
    rows = {name: _row(kinds[name], timing) for name, timing in timings.items()}
    return {"section": section, "shape": list(shape), "gflop": gflop, "rows": rows, "left_out": left_out}


def sweep(axis: str, options: Options) -> list[dict[str, Any]]:
    """Time forward and step along one axis of the middle shape; the tables carry `sweep`, the axis's name."""
    some = options._replace(peers=[n for n in options.peers if n in SWEEP_PEERS], samples=max(options.samples // 2, 2))
    shapes = [MIDDLE._replace(**{axis: value}) for value in SWEEPS[axis]]
    return [timed(section, shape, some) | {"sweep": axis} for shape in shapes for section in ("forward", "step")]


def compile_times(shape: Shape, options: Options, repeats: int = 3) -> list[dict[str, Any]]:
    """Time tracing, lowering and compiling, from empty caches, for every peer on JAX; in turn."""
    weights, x = cases.draw(shape)
    found: dict[str, dict[str, list[float]]] = {what: {} for what in COMPILED}
    kinds, left_out = {}, {}
    for _ in range(repeats):
        for name in options.peers:
            if name in left_out or not issubclass(PEERS[name], peers.JaxPeer):
                continue
            for what in COMPILED:
                options.progress(f"compile {what}: {name}")
                jax.clear_caches()
                try:
                    peer = PEERS[name](shape)
                    function = peer.apply if what == "forward" else peer.gradient
                    arguments = peer.pack(weights), x
                    start = time.perf_counter()
                    jax.jit(function).lower(*arguments).compile()
                except Exception as error:  # whatever a library raises: it is left out, and the run goes on
                    left_out[name] = _reason(error)
                    break
                found[what].setdefault(name, []).append(time.perf_counter() - start)
                kinds[name] = peer.kind
    return [
        {
            "section": f"compile {what}",
            "shape": list(shape),
            "gflop": None,
            "rows": {name: _row(kinds[name], Timing(samples, 0.0)) for name, samples in times.items()},
            "left_out": left_out,
        }
        for what, times in found.items()
    ]


def _prepare(section, shape, options):
    """Build every peer's run and check its numbers against the plain scan's."""
    arguments = cases.draw(shape)
    if section == "many":
        drawn = [cases.draw(shape, seed) for seed in range(MODELS)]
        arguments = [weights for weights, _ in drawn], np.stack([x for _, x in drawn])
    run = getattr(peers.Scan(shape), section)(*arguments)
    wanted = run.read(run.call())
    runs, kinds, left_out = {}, {}, {}
    for name in options.peers:
        options.progress(f"{section} {shape}: {name} is built and checked")
        try:
            peer = PEERS[name](shape)
            make = getattr(peer, section)
            if make is None:
                continue
            run = make(*arguments)
            array, error = cases.disagreement(run.read(run.call()), wanted)
        except Exception as error:  # whatever a library raises: it is left out, and the run goes on
            left_out[name] = _reason(error)
            options.say(f"{section} {shape}: {name} is not available: {left_out[name]}")
            continue
        if error > cases.TOLERANCE:
            left_out[name] = f"{array} differs by {error:.1e} from the plain scan's"
            options.say(f"{section} {shape}: {name} computes something else: {left_out[name]}")
            continue
        runs[name], kinds[name] = run, peer.kind
    return runs, kinds, left_out


def _row(kind: str, timing: Timing) -> dict[str, Any]:
    return {
        "kind": kind,
        "median": statistics.median(timing.samples),
        "min": min(timing.samples),
        "max": max(timing.samples),
        "samples": timing.samples,
        "cores": round(timing.cores, 2),
    }


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
