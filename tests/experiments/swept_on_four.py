"""The toy's `sweep` on four devices, as a program: it tells where the models lie, and dies inside its second save.

JAX_NUM_CPU_DEVICES=4 python swept_on_four.py sweep CONFIG ...
"""

import sys

import jax
import toy

from experiments import together

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


if __name__ == "__main__":
    together.make_call = telling
    toy.die_in_save(2)
    toy.main(sys.argv[1:])
