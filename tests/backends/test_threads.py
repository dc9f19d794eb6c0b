"""The kernel on several threads: the same bits every time, no deadlock, and no more threads than processors allowed."""

import os
import subprocess
import sys
import threading
from functools import partial

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from both import agree, drawn, needs_kernel, values_and_gradients

from jlstm import LSTM

pytestmark = needs_kernel

B, T, D, N = 24, 30, 8, 32  # large enough that the kernel takes several threads
LAYER = LSTM(N, return_sequences=True, backend="cpu")
LONG_ENOUGH = 120  # seconds: some hundred times what these computations take


@pytest.fixture(scope="module")
def run():
    return jax.jit(partial(values_and_gradients, LAYER))


def test_repeated_calls_give_the_same_bits(run):
    arguments = drawn(LAYER, B, T, D)
    expected = run(*arguments)
    for _ in range(20):
        cases.same_bits(run(*arguments), expected)


def test_calls_from_several_threads_give_the_same_bits(run):
    arguments = [drawn(LAYER, B, T, D, seed=seed) for seed in range(4)]
    expected = [run(*a) for a in arguments]
    got, barrier = [[] for _ in arguments], threading.Barrier(len(arguments))

    def call(n):
        barrier.wait(LONG_ENOUGH)
        for _ in range(10):
            got[n].append(jax.block_until_ready(run(*arguments[n])))

    threads = [threading.Thread(target=call, args=(n,), daemon=True) for n in range(len(arguments))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_ENOUGH)
        assert not thread.is_alive(), "a call does not return"
    for results, one in zip(got, expected, strict=True):
        assert len(results) == 10
        for result in results:
            cases.same_bits(result, one)


def test_several_computations_at_once_finish(run):
    """More kernels than threads, in programs that are dispatched before the ones before them are done."""
    many = 8
    members, states, xs = zip(*(drawn(LAYER, B, T, D, seed=seed) for seed in range(many)), strict=True)

    @jax.jit
    def side_by_side(members, states, xs):
        return [LAYER.apply(*arguments)[1] for arguments in zip(members, states, xs, strict=True)]

    done = []

    def call():
        pending = [side_by_side(members, states, xs) for _ in range(4)]
        pending += [run(members[0], states[0], xs[0]) for _ in range(4)]
        done.append(jax.block_until_ready(pending))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(LONG_ENOUGH)
    assert done, "the computations do not finish"
    for others in done[0][1:4]:
        cases.same_bits(others, done[0][0])


PROGRAM = """
import os, sys
if {cpus}:
    os.sched_setaffinity(0, {cpus})
sys.path[:0] = {path!r}
import jax, numpy as np
from functools import partial
from both import drawn, values_and_gradients
from test_threads import LAYER, B, T, D, fork_while_it_computes

if {fork}:
    fork_while_it_computes()
out = jax.jit(partial(values_and_gradients, LAYER))(*drawn(LAYER, B, T, D))
np.savez(sys.argv[1], *jax.tree.leaves(out))
"""


def fork_while_it_computes():
    """A child that never touches JAX, forked after the kernel ran, ends as it should."""
    jax.block_until_ready(jax.jit(LAYER.apply)(*drawn(LAYER, B, T, D)))
    child = os.fork()
    if not child:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def in_a_process(folder, cpus=None, fork=False):
    """The leaves of what a process of its own computes, on some processors alone."""
    here = os.path.dirname(__file__)
    program = PROGRAM.format(cpus=cpus, fork=fork, path=[here, os.path.dirname(here)])
    subprocess.run([sys.executable, "-c", program, folder / "out.npz"], check=True, timeout=LONG_ENOUGH)
    with np.load(folder / "out.npz") as file:
        return list(file.values())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no processor affinity here")
def test_one_allowed_processor_gives_the_same_numbers(run, tmp_path):
    first = min(os.sched_getaffinity(0))
    expected = jax.tree.leaves(run(*drawn(LAYER, B, T, D)))
    agree([jnp.asarray(a) for a in in_a_process(tmp_path, {first})], expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_another_process_gives_the_same_bits_and_fork_is_harmless(run, tmp_path):
    expected = jax.tree.leaves(run(*drawn(LAYER, B, T, D)))
    cases.same_bits([jnp.asarray(a) for a in in_a_process(tmp_path, fork=True)], expected)
