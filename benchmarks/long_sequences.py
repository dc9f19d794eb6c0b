"""Training memory and time of remat_every at T=20,000: prints the table of docs/long_sequences.md.

    python -m benchmarks.long_sequences

Memory is what XLA reports of the compiled gradient (temporary buffers: neither arguments nor results). Times are
medians of rounds in which every k runs once, in turn, so that a drift of the machine falls on all alike.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jlstm

B, T, D, N = 4, 20_000, 32, 128
ROUNDS = 5


def compiled_gradient(remat_every: int | None, backend: str = "xla") -> tuple[Callable, tuple]:
    """Compile the gradient of the squared last output with respect to params and input."""
    layer = jlstm.LSTM(N, remat_every=remat_every, backend=backend)
    params = layer.init(jax.random.key(0), D)
    x = jax.random.normal(jax.random.key(1), (B, T, D))

    def loss(params, x):
        return jnp.sum(layer.apply(params, layer.initial_state(B), x)[1] ** 2)

    return jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, x).compile(), (params, x)


def memory(backends: tuple[str, ...], say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Give the temporary memory, in MiB, of each backend with and without remat_every=100; nothing is run."""
    rows = []
    for backend in backends:
        for k in (None, 100):
            try:
                mib = _mib(compiled_gradient(k, backend)[0])
            except Exception as error:  # a backend that is not there, or does not take this call
                say(f"memory: jlstm {backend}, remat_every={k} is not available: {error}")
                continue
            rows.append({"peer": f"jlstm {backend}", "remat_every": k, "mib": mib})
    return rows


def main():
    cases = {k: compiled_gradient(k) for k in (None, 20, 50, 100, 200, 500, 2000)}
    times = {k: [] for k in cases}
    for round_ in range(ROUNDS + 1):  # the first one warms up
        for k, (gradient, arguments) in cases.items():
            start = time.perf_counter()
            jax.block_until_ready(gradient(*arguments))
            if round_:
                times[k].append(time.perf_counter() - start)
    plain = statistics.median(times[None])
    print(f"B={B} T={T} D={D} N={N}, float32, jax {jax.__version__} on {jax.devices()[0].platform}\n")
    print("| remat_every | temporary memory, MiB | times less | time, s | times the plain scan's |")
    print("|---|---|---|---|---|")
    plain_mib = _mib(cases[None][0])
    for k, (gradient, _) in cases.items():
        mib = _mib(gradient)
        seconds = statistics.median(times[k])
        print(f"| {k} | {mib:.0f} | {plain_mib / mib:.1f} | {seconds:.2f} | {seconds / plain:.2f} |")


def _mib(compiled) -> float:
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


if __name__ == "__main__":
    main()
