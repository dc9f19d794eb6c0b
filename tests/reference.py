"""The oracle: an LSTM in float64 NumPy, one example, one step, one unit at a time. It imports nothing of jlstm.

Weights are a dict of float64 arrays: kernel [D, 4N], recurrent_kernel [P, 4N], and where wanted bias [4N],
peephole [3, N] (rows i, f, o) and projection [N, P]. P = N without a projection. Gates along 4N: i, f, g, o.
"""

import math

import numpy as np

ACTIVATIONS = {
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "relu": lambda x: max(x, 0.0),
    "linear": lambda x: x,
    "hard_sigmoid": lambda x: min(max(x / 6 + 0.5, 0.0), 1.0),
    "hard_sigmoid_keras2": lambda x: min(max(0.2 * x + 0.5, 0.0), 1.0),
    "softsign": lambda x: x / (1 + abs(x)),
    "elu": lambda x: x if x > 0 else math.expm1(x),
}


def cell(
    weights,
    h,
    c,
    x,
    *,
    activation="tanh",
    recurrent_activation="sigmoid",
    output_activation=None,
    peephole=False,
    coupled=None,
    preact_clip=None,
    projection=None,
    forget_gate=True,
    input_mask=None,
    recurrent_mask=None,
    record=None,
):
    """One step of one example: h [P], c [N], x [D] -> h', c'. Dropout masks: [D] or [4, D], and [4, P].

    record: a list that gets (gates [4, N], c', h') of the step.
    """
    φ, σ = ACTIVATIONS[activation], ACTIVATIONS[recurrent_activation]
    φ_h = ACTIVATIONS[output_activation or activation]
    D, N = len(x), len(c)
    x_of = np.broadcast_to(np.ones(D) if input_mask is None else input_mask, (4, D)) * x
    h_of = (np.ones((4, len(h))) if recurrent_mask is None else recurrent_mask) * h
    bias = weights.get("bias", np.zeros(4 * N))

    def clip(z):
        return z if preact_clip is None else min(max(z, -preact_clip), preact_clip)

    new_h, new_c, gates = np.zeros(N), np.zeros(N), np.zeros((4, N))
    for n in range(N):
        z = []
        for gate in range(4):
            column = gate * N + n
            total = bias[column]
            total += np.dot(x_of[gate], weights["kernel"][:, column])
            total += np.dot(h_of[gate], weights["recurrent_kernel"][:, column])
            z.append(total)
        z_i, z_f, z_g, z_o = z
        if peephole:  # i and f read the old c
            z_i += weights["peephole"][0, n] * c[n]
            z_f += weights["peephole"][1, n] * c[n]
        i, f, g = σ(clip(z_i)), σ(clip(z_f)), φ(clip(z_g))
        if coupled == "input":
            i = 1 - f
        if coupled == "forget":
            f = 1 - i
        if not forget_gate:
            f = 1.0
        new_c[n] = f * c[n] + i * g
        if peephole:  # o reads the new c
            z_o += weights["peephole"][2, n] * new_c[n]
        o = σ(clip(z_o))
        new_h[n] = o * φ_h(new_c[n])
        gates[:, n] = i, f, g, o
    if projection is not None:
        new_h = new_h @ weights["projection"]
    if record is not None:
        record.append((gates, new_c, new_h))
    return new_h, new_c


def lstm(
    weights,
    state,
    x,
    *,
    mask=None,
    lengths=None,
    reset=None,
    reset_state=None,
    go_backwards=False,
    keep_order=False,
    return_sequences=True,
    zero_output_for_mask=False,
    input_mask=None,
    recurrent_mask=None,
    **options,
):
    """A layer over whole sequences: state (h [B, P], c [B, N]), x [B, T, D] -> (h, c), y.

    Dropout masks have a row for each example. Everything else is named as in jlstm.LSTM.
    """
    B, T, _ = x.shape
    h, c = (np.array(part, np.float64) for part in state)
    if lengths is not None:
        mask = np.array([[t < lengths[b] for t in range(T)] for b in range(B)], bool).reshape(B, T)
    y = np.zeros((B, T, h.shape[-1]))
    last = h.copy()  # the output that return_sequences=False returns
    for b in range(B):
        masks = {
            "input_mask": None if input_mask is None else input_mask[b],
            "recurrent_mask": None if recurrent_mask is None else recurrent_mask[b],
        }
        for n, t in enumerate(reversed(range(T)) if go_backwards else range(T)):
            if reset is not None and reset[b, t]:
                h[b], c[b] = (0.0, 0.0) if reset_state is None else (reset_state[0][b], reset_state[1][b])
            valid = mask is None or mask[b, t]
            if valid:
                h[b], c[b] = cell(weights, h[b], c[b], x[b, t], **masks, **options)
            out = np.zeros_like(h[b]) if zero_output_for_mask and not valid else h[b]
            y[b, t if (go_backwards and keep_order) or not go_backwards else n] = out
            last[b] = out
    return (h, c), (y if return_sequences else last)


def bidirectional(
    weights,
    states,
    x,
    *,
    merge_mode="concat",
    return_sequences=True,
    mask=None,
    lengths=None,
    forward_options=None,
    backward_options=None,
):
    """Two layers, weights and states as pairs (forward, backward) -> pair of states, merged outputs."""
    shared = {
        "mask": mask,
        "lengths": lengths,
        "return_sequences": return_sequences,
        "zero_output_for_mask": return_sequences,
    }
    forward, a = lstm(weights[0], states[0], x, **shared, **(forward_options or {}))
    backward, b = lstm(
        weights[1], states[1], x, go_backwards=True, keep_order=True, **shared, **(backward_options or {})
    )
    merged = {
        "concat": lambda: np.concatenate([a, b], axis=-1),
        "sum": lambda: a + b,
        "mul": lambda: a * b,
        "ave": lambda: (a + b) / 2,
        None: lambda: (a, b),
    }
    return (forward, backward), merged[merge_mode]()
