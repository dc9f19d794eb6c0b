"""The other end of keras_tf.py's pipe: builds one call on TensorFlow, and makes it once for every byte that comes.

Run by an interpreter that has keras and tensorflow, and perhaps nothing else of what benchmarks/ imports.
"""

import os
import pickle
import sys

THREADS = 2


def build(section, units, weights, x):
    """Give a function without arguments that returns the arrays of keras_tf.NAMES."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    layer = keras.layers.LSTM(units, return_sequences=True, return_state=True)
    layer.build((None, None, x.shape[2]))
    layer.set_weights(weights)
    x = tf.constant(x)

    @tf.function
    def forward(x):
        return layer(x)

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x)[0] ** 2)
        sources = [variable.value for variable in layer.trainable_variables]
        return tape.gradient(loss, [*sources, x])

    @tf.function
    def one(x, h, c):
        return layer(x, initial_state=[h, c])

    state = [tf.zeros((x.shape[0], units))] * 2

    def stream():
        nonlocal state
        y, *state = one(x, *state)
        return (y[:, 0],)

    return {"forward": lambda: forward(x), "step": lambda: gradient(x), "streaming": stream}[section]


def main():
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is not an answer
    os.environ["KERAS_BACKEND"] = "tensorflow"
    call = build(*pickle.load(requests))
    pickle.dump([array.numpy() for array in call()], answers)
    answers.flush()
    while requests.read(1):
        call()
        answers.write(b".")
        answers.flush()


if __name__ == "__main__":
    main()
