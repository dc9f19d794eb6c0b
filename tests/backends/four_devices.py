"""A program on four CPU devices: what test_sharding.py asks of it, as JSON: for each check "" or what went wrong."""

import json
import re
import sys
import traceback
from dataclasses import replace
from functools import partial

import jax

if __name__ == "__main__":  # and not where doctests are looked for
    jax.config.update("jax_num_cpu_devices", 4)

import cases
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jlstm import LSTM, Bidirectional, Stack

B, T, D, N = 8, 6, 3, 5
LAYER = LSTM(N, return_sequences=True, backend="cpu")
SPLIT, WHOLE = PartitionSpec("data"), PartitionSpec()
# The batch is summed in another order: four sums of two rows.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


def mesh_of(axis_type=AxisType.Auto, shape=(4,), names=("data",)):
    return jax.make_mesh(shape, names, axis_types=(axis_type,) * len(names))


def arguments():
    params = cases.params(cases.weights(1, D, N))
    mask, reset = jnp.asarray(cases.bools(4, B, T)), jnp.asarray(cases.bools(5, B, T, p=0.2))
    return params, cases.lstm_state(cases.state(2, B, N)), cases.array(cases.inputs(3, B, T, D)), mask, reset


def put(mesh, params, *of_rows):
    return jax.device_put(params, NamedSharding(mesh, WHOLE)), *jax.device_put(of_rows, NamedSharding(mesh, SPLIT))


def forward(layer, params, state, x, mask, reset):
    return layer.apply(params, state, x, mask=mask, reset=reset, reset_state=state)


def loss(layer, *arguments):
    state, y = forward(layer, *arguments)
    return jnp.sum(y**2) + jnp.sum(state.c**2)


def gradients(layer):
    return jax.value_and_grad(partial(loss, layer), argnums=(0, 1, 2))


def is_split(array, mesh):
    assert array.sharding.is_equivalent_to(NamedSharding(mesh, SPLIT), array.ndim), array.sharding


def gathers_nothing(compiled):
    text = compiled.as_text()
    found = re.findall(r"all-gather|all-to-all|collective-permute", text)
    assert not found, found
    return text


def on_four(function, mesh, given):
    """Compile for split arguments, check the program, and run it."""
    compiled = jax.jit(function).lower(*given).compile()
    text = gathers_nothing(compiled)
    calls = [line for line in text.splitlines() if "jlstm_forward" in line or "jlstm_backward" in line]
    assert calls, "the kernel is not in the program"
    return compiled(*given), text


@check
def forward_is_split():
    mesh = mesh_of()
    function = partial(forward, LAYER)
    (state, y), text = on_four(function, mesh, put(mesh, *arguments()))
    assert "all-reduce" not in text
    for leaf in (state.h, state.c, y):
        is_split(leaf, mesh)
    cases.close((state, y), jax.jit(function)(*arguments()), **TOLERANCE)


@check
def gradients_are_split():
    mesh = mesh_of()
    function = gradients(LAYER)
    got, text = on_four(function, mesh, put(mesh, *arguments()))
    assert "all-reduce" in text  # of the weights' gradients, and of the loss
    _, (of_params, of_state, of_x) = got
    is_split(of_x, mesh)
    is_split(of_state.c, mesh)
    assert of_params.kernel.sharding.is_fully_replicated
    cases.close(got, jax.jit(function)(*arguments()), **TOLERANCE)


@check
def other_layers_are_split():
    mesh = mesh_of()
    variants = {
        "Bidirectional": Bidirectional(LAYER),
        "Stack": Stack((Bidirectional(LAYER), replace(LAYER, return_sequences=False))),
        "backwards, peephole": replace(LAYER, go_backwards=True),
    }
    for name, layer in variants.items():
        params, state = layer.init(jax.random.key(0), D), layer.initial_state(B)
        _, _, x, mask, _ = arguments()

        def total(params, state, x, mask, layer=layer):
            return jnp.sum(layer.apply(params, state, x, mask=mask)[1] ** 2)

        function = jax.value_and_grad(total, argnums=(0, 2))
        got, _ = on_four(function, mesh, put(mesh, params, state, x, mask))
        is_split(got[1][1], mesh)
        cases.close(got, jax.jit(function)(params, state, x, mask), **TOLERANCE), name


@check
def dropout_is_split():
    mesh = mesh_of()
    layer = replace(LAYER, dropout=0.3, recurrent_dropout=0.3)

    def function(params, state, x, mask, reset, key):
        return jax.grad(lambda p: jnp.sum(layer.apply(p, state, x, mask=mask, key=key)[1] ** 2))(params)

    key = jax.random.key(1)
    given = put(mesh, *arguments())
    cases.close(jax.jit(function)(*given, key), jax.jit(function)(*arguments(), key), **TOLERANCE)


@check
def a_batch_that_four_do_not_divide():
    mesh = mesh_of(shape=(2, 2), names=("data", "other"))  # split in two, and computed twice
    function = gradients(LAYER)
    got, _ = on_four(function, mesh, put(mesh, *arguments()))
    cases.close(got, jax.jit(function)(*arguments()), **TOLERANCE)


@check
def two_axes_of_the_mesh_split_the_batch():
    mesh = mesh_of(shape=(2, 2), names=("data", "other"))
    both = NamedSharding(mesh, PartitionSpec(("data", "other")))
    params, *of_rows = arguments()
    function = gradients(LAYER)
    given = jax.device_put(params, NamedSharding(mesh, WHOLE)), *jax.device_put(of_rows, both)
    got, _ = on_four(function, mesh, given)
    assert got[1][2].sharding.is_equivalent_to(both, 3), got[1][2].sharding
    cases.close(got, jax.jit(function)(*arguments()), **TOLERANCE)


@check
def members_are_split():
    mesh = mesh_of()
    members = jax.tree.map(lambda a: jnp.stack([a, -a, 2 * a, a / 2]), arguments()[0])
    _, state, x, mask, reset = arguments()

    def function(members):
        return jax.vmap(lambda p: gradients(LAYER)(p, state, x, mask, reset))(members)

    (given,) = jax.device_put((members,), NamedSharding(mesh, SPLIT))
    got = jax.jit(function)(given)
    cases.close(got, jax.jit(function)(members), **TOLERANCE)
    gathers_nothing(jax.jit(function).lower(given).compile())
    is_split(got[1][0].kernel, mesh)


@check
def shard_map_forward():
    mesh = mesh_of()
    function = partial(forward, LAYER)
    split = jax.shard_map(function, mesh=mesh, in_specs=(WHOLE, *[SPLIT] * 4), out_specs=SPLIT)
    got = jax.jit(split)(*put(mesh, *arguments()))
    is_split(got[1], mesh)
    cases.close(got, jax.jit(function)(*arguments()), **TOLERANCE)


@check
def shard_map_of_a_gradient():
    """The gradient inside: of weights that all devices hold it is summed over them, as shard_map defines it."""
    mesh = mesh_of()

    def local(*given):
        value, grads = gradients(LAYER)(*given)
        return jax.lax.psum(value, "data"), grads

    split = jax.shard_map(local, mesh=mesh, in_specs=(WHOLE, *[SPLIT] * 4), out_specs=(WHOLE, (WHOLE, SPLIT, SPLIT)))
    got = jax.jit(split)(*put(mesh, *arguments()))
    cases.close(got, jax.jit(gradients(LAYER))(*arguments()), **TOLERANCE)


@check
def gradient_of_a_shard_map():
    mesh = mesh_of()

    def local(*given):
        return jax.lax.psum(loss(LAYER, *given), "data")

    split = jax.shard_map(local, mesh=mesh, in_specs=(WHOLE, *[SPLIT] * 4), out_specs=WHOLE)
    got = jax.jit(jax.value_and_grad(split, argnums=(0, 1, 2)))(*put(mesh, *arguments()))
    cases.close(got, jax.jit(gradients(LAYER))(*arguments()), **TOLERANCE)


@check
def shard_map_without_its_check():
    mesh = mesh_of()

    def local(*given):
        value, (of_params, of_state, of_x) = gradients(LAYER)(*given)
        return jax.lax.psum((value, of_params), "data"), (of_state, of_x)

    split = jax.shard_map(local, mesh=mesh, in_specs=(WHOLE, *[SPLIT] * 4), out_specs=(WHOLE, SPLIT), check_vma=False)
    (value, of_params), of_rows = jax.jit(split)(*put(mesh, *arguments()))
    expected = jax.jit(gradients(LAYER))(*arguments())
    cases.close((value, (of_params, *of_rows)), expected, **TOLERANCE)


@check
def a_mesh_with_explicit_axes():
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh):
        given = put(mesh, *arguments())

        def function(params, state, x, mask, reset):
            state, y = forward(LAYER, params, state, x, mask, reset)
            return state, jnp.where(x.sum(axis=2, keepdims=True) > 0, y, -y)  # the types say alike how they are split

        got, _ = on_four(function, mesh, given)
        is_split(got[1], mesh)
        (value, grads), _ = on_four(gradients(LAYER), mesh, given)
        is_split(grads[2], mesh)
    cases.close(got, jax.jit(function)(*arguments()), **TOLERANCE)
    cases.close((value, grads), jax.jit(gradients(LAYER))(*arguments()), **TOLERANCE)


@check
def without_jit():
    mesh = mesh_of()
    got = forward(LAYER, *put(mesh, *arguments()))
    is_split(got[1], mesh)
    cases.close(got, forward(LAYER, *arguments()), **TOLERANCE)


@check
def rows_that_do_not_divide_give_the_numbers_of_one_device():
    params, _, x, *_ = arguments()
    odd = 6  # rows, over four devices

    def of(layer):
        def f(params, x):
            return jnp.sum(layer.apply(params, layer.initial_state(odd), x[:odd])[1] ** 2)

        return jax.jit(jax.value_and_grad(f))

    split = put(mesh_of(), params, x)
    cases.close(of(LAYER)(*split), of(replace(LAYER, backend="xla"))(params, x), **TOLERANCE)


@check
def arrays_of_one_device_under_a_mesh_of_four():
    params, state, x, *_ = arguments()
    expected = jax.jit(LAYER.apply)(params, state, x)
    for axis_type in (AxisType.Auto, AxisType.Explicit):
        with jax.sharding.set_mesh(mesh_of(axis_type)):
            got = jax.jit(LAYER.apply)(params, state, x)
        cases.close(got, expected, **TOLERANCE)


if __name__ == "__main__":
    verdicts = {}
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for name, function in CHECKS.items():
            try:
                function()
                verdicts[name] = ""
            except Exception:
                verdicts[name] = traceback.format_exc()
    assert np.size(jax.devices()) == 4
    json.dump(verdicts, sys.stdout)
