"""The protocol of timing: peers in turn, in blocks, a rest before each, a warm-up in each; the peak beside them.

Idle worker threads of torch and onnxruntime spin for a while and halve whoever runs next: hence the rest. The order of
the peers turns from round to round, so that none always follows the same other one. A drift of the machine falls on
all alike, since every peer has a block in every round.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

REST = 0.15  # s, before each block
BLOCK = 3  # samples in a block; fewer where that would leave fewer than ROUNDS blocks
ROUNDS = 3
SAMPLE = 5e-3  # s; shorter calls are repeated within a sample, which is then their mean
WARM_UP = 50e-3  # s of calls at least, and one call, before the samples of a block
PEAK = "matrix product"
PEAK_SIZE = 2048
PEAK_GFLOP = 2e-9 * PEAK_SIZE**3


class Timing(NamedTuple):
    """Seconds of one call, one entry a sample; cores: CPU time over wall time, of this process."""

    samples: list[float]
    cores: float

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


def measure(
    calls: Mapping[str, Callable[[], Any]],
    samples: int,
    *,
    block: int = BLOCK,
    rest: float = REST,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Timing]:
    """Time every call in turn.

    Args:
        calls: what to time, by name; each waits for its own result.
        samples: at least so many of each, rounded up to whole blocks.
        block: samples in a block, at most.
        rest: seconds before each block.
        progress: called with a name before its block.
    """
    names = list(calls)
    block = max(1, min(block, samples // ROUNDS))
    found, cpu = {name: [] for name in names}, dict.fromkeys(names, 0.0)
    wall = dict(cpu)
    for number in range(math.ceil(samples / block)):
        first = number % max(len(names), 1)
        for name in names[first:] + names[:first]:
            progress(name)
            time.sleep(rest)
            call, count = calls[name], _warm_up(calls[name])
            gc.disable()
            began, cpu_began = time.perf_counter(), time.process_time()
            for _ in range(block):
                start = time.perf_counter()
                for _ in range(count):
                    call()
                found[name].append((time.perf_counter() - start) / count)
            wall[name] += time.perf_counter() - began
            cpu[name] += time.process_time() - cpu_began
            gc.enable()
    return {name: Timing(found[name], cpu[name] / wall[name]) for name in names}


def peak_call() -> Callable[[], Any]:
    """Give the call whose rate is the peak: a 2048-wide float32 matrix product by XLA."""
    a, b = (jax.random.normal(jax.random.key(seed), (PEAK_SIZE, PEAK_SIZE)) for seed in (0, 1))
    product = jax.jit(jnp.matmul)
    return lambda: product(a, b).block_until_ready()


def _warm_up(call: Callable[[], Any]) -> int:
    """Run a call for a while, and say how many of it make a sample."""
    shortest, end = math.inf, time.perf_counter() + WARM_UP
    while True:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        shortest = min(shortest, now - start)
        if now >= end:
            return max(1, math.ceil(SAMPLE / shortest))
