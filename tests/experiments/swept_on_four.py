"""The toy's `sweep` on four devices, as a program: it tells where the models lie, and dies inside its second save.

python swept_on_four.py sweep CONFIG ...
"""

import sys

import jax

jax.config.update("jax_num_cpu_devices", 4)

from toy import die_in_save  # noqa: E402  no device before it

from experiments import __main__ as cli  # noqa: E402
from experiments import together  # noqa: E402

make = together.make_call


def telling(configs, axis):
    """Build the call, which prints (device, first model, models) for each part of each array of the parameters."""
    call = make(configs, axis)

    def told(state, end):
        state, losses = call(state, end)
        parts = [part for leaf in jax.tree.leaves(state.params) for part in leaf.addressable_shards]
        print("lie", sorted({(part.device.id, part.index[0].start, part.data.shape[0]) for part in parts}))
        return state, losses

    return told


together.make_call = telling
die_in_save(2)
cli.main(sys.argv[1:])
