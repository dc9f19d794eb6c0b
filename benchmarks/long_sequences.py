"""Training memory and time of remat_every at T=20,000: prints the table of docs/long_sequences.md.

    python -m benchmarks.long_sequences

Memory is what XLA reports of the compiled gradient (temporary buffers: neither arguments nor results). Times are
medians of rounds in which every k runs once, in turn, so that a drift of the machine falls on all alike.
"""

import statistics
import time

import jax
import jax.numpy as jnp

import jlstm

B, T, D, N = 4, 20_000, 32, 128
ROUNDS = 5


def compiled_gradient(remat_every: int | None):
    """Compile the gradient of the squared last output with respect to params and input."""
    layer = jlstm.LSTM(N, remat_every=remat_every)
    params = layer.init(jax.random.key(0), D)
    x = jax.random.normal(jax.random.key(1), (B, T, D))

    def loss(params, x):
        return jnp.sum(layer.apply(params, layer.initial_state(B), x)[1] ** 2)

    return jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, x).compile(), (params, x)


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
    plain_mib = cases[None][0].memory_analysis().temp_size_in_bytes / 2**20
    for k, (gradient, _) in cases.items():
        mib = gradient.memory_analysis().temp_size_in_bytes / 2**20
        seconds = statistics.median(times[k])
        print(f"| {k} | {mib:.0f} | {plain_mib / mib:.1f} | {seconds:.2f} | {seconds / plain:.2f} |")


if __name__ == "__main__":
    main()
