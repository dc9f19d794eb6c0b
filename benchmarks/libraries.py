"""The JAX libraries beside which jlstm is timed: flax linen and nnx, equinox, haiku, Keras on JAX."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import Weights, reorder
from benchmarks.peers import JaxPeer


class Linen(JaxPeer):
    """flax.linen.RNN over OptimizedLSTMCell."""

    def __init__(self, shape):
        super().__init__(shape)
        from flax import linen

        self.module = linen.OptimizedLSTMCell(shape.N)
        self.rnn = linen.RNN(self.module, return_carry=True)

    def pack(self, weights):
        params = {}
        for part, array in (("i", weights.kernel), ("h", weights.recurrent_kernel)):
            for gate, columns in zip("ifgo", np.split(array, 4, axis=1), strict=True):
                params[part + gate] = {"kernel": jnp.asarray(columns)}
        for gate, row in zip("ifgo", np.split(weights.bias, 4), strict=True):
            params["h" + gate]["bias"] = jnp.asarray(row)
        return params

    def unpack(self, params):
        def join(part, name):
            return np.concatenate([params[part + gate][name] for gate in "ifgo"], axis=-1)

        return Weights(join("i", "kernel"), join("h", "kernel"), join("h", "bias"))

    def apply(self, params, x):
        (c, h), y = self.rnn.apply({"params": {"cell": params}}, x)
        return y, h, c

    def cell(self, params, state, x):
        (c, h), y = self.module.apply({"params": params}, state[::-1], x)
        return (h, c), y


class Nnx(JaxPeer):
    """flax.nnx.RNN over OptimizedLSTMCell, split into a definition and a pure state of parameters."""

    def __init__(self, shape):
        super().__init__(shape)
        from flax import nnx

        self.nnx = nnx
        cell = nnx.OptimizedLSTMCell(shape.D, shape.N, rngs=nnx.Rngs(0))
        self.definition, self.template = nnx.split(cell)

    def pack(self, weights):
        params = self.nnx.to_pure_dict(self.template)
        params["dense_i"]["kernel"] = jnp.asarray(weights.kernel)
        params["dense_h"] |= {"kernel": jnp.asarray(weights.recurrent_kernel), "bias": jnp.asarray(weights.bias)}
        return params

    def unpack(self, params):
        input_, recurrent = params["dense_i"], params["dense_h"]
        return Weights(*map(np.asarray, (input_["kernel"], recurrent["kernel"], recurrent["bias"])))

    def apply(self, params, x):
        rnn = self.nnx.RNN(self.nnx.merge(self.definition, params), return_carry=True)
        (c, h), y = rnn(x, initial_carry=self.zeros(x.shape[0]))
        return y, h, c

    def cell(self, params, state, x):
        (c, h), y = self.nnx.merge(self.definition, params)(state[::-1], x)
        return (h, c), y


class Equinox(JaxPeer):
    """equinox.nn.LSTMCell of one example, scanned, and mapped over the batch."""

    def __init__(self, shape):
        super().__init__(shape)
        import equinox

        self.tree_at = equinox.tree_at
        self.template = equinox.nn.LSTMCell(shape.D, shape.N, key=jax.random.key(0))

    def pack(self, weights):
        arrays = [jnp.asarray(weights.kernel.T), jnp.asarray(weights.recurrent_kernel.T), jnp.asarray(weights.bias)]
        return self.tree_at(lambda cell: [cell.weight_ih, cell.weight_hh, cell.bias], self.template, arrays)

    def unpack(self, params):
        return Weights(*map(np.asarray, (params.weight_ih.T, params.weight_hh.T, params.bias)))

    def apply(self, params, x):
        def one(x, state):
            def step(state, x_t):
                state = params(x_t, state)
                return state, state[0]

            (h, c), y = jax.lax.scan(step, state, x)
            return y, h, c

        return jax.vmap(one)(x, self.zeros(x.shape[0]))

    def cell(self, params, state, x):
        state = jax.vmap(params)(x, state)
        return state, state[0]


class Haiku(JaxPeer):
    """haiku.dynamic_unroll over haiku.LSTM, whose gates stand in the order i, g, f, o and whose forget gate adds 1."""

    def __init__(self, shape):
        super().__init__(shape)
        import haiku

        def unroll(x, h, c):
            return haiku.dynamic_unroll(haiku.LSTM(shape.N), x, haiku.LSTMState(h, c), time_major=False)

        self.unroll = haiku.without_apply_rng(haiku.transform(unroll)).apply
        self.one = haiku.without_apply_rng(
            haiku.transform(lambda x, h, c: haiku.LSTM(shape.N)(x, haiku.LSTMState(h, c)))
        ).apply
        self.forget = np.repeat(np.float32([0, 1, 0, 0]), shape.N)

    def pack(self, weights):
        joined = np.concatenate([weights.kernel, weights.recurrent_kernel])
        w, b = (reorder(a, "ifgo", "igfo") for a in (joined, weights.bias - self.forget))
        return {"lstm/linear": {"w": jnp.asarray(w), "b": jnp.asarray(b)}}

    def unpack(self, params):
        w, b = (reorder(params["lstm/linear"][name], "igfo", "ifgo") for name in "wb")
        return Weights(w[: self.shape.D], w[self.shape.D :], b)

    def apply(self, params, x):
        y, state = self.unroll(params, x, *self.zeros(x.shape[0]))
        return y, state.hidden, state.cell

    def cell(self, params, state, x):
        y, state = self.one(params, x, *state)
        return (state.hidden, state.cell), y


class Keras(JaxPeer):
    """keras.layers.LSTM on KERAS_BACKEND=jax, as a stateless call."""

    def __init__(self, shape):
        super().__init__(shape)
        import keras

        if keras.backend.backend() != "jax":
            raise ImportError(f"keras runs on {keras.backend.backend()}; set KERAS_BACKEND=jax")
        self.layer = keras.layers.LSTM(shape.N, return_sequences=True, return_state=True)
        self.layer.build((None, None, shape.D))
        self.rest = [variable.value for variable in self.layer.non_trainable_variables]

    def apply(self, params, x):
        return self.layer.stateless_call(list(params), self.rest, x)[0]

    def cell(self, params, state, x):
        outputs, _ = self.layer.stateless_call(list(params), self.rest, x[:, None], initial_state=list(state))
        y, h, c = outputs
        return (h, c), y[:, 0]
