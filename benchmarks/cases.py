"""What is computed: shapes, weights, inputs and the arithmetic they cost, the same for every peer."""

from typing import NamedTuple

import numpy as np

TOLERANCE = 1e-4  # of the largest magnitude of each array: float32 sums in another order, over hundreds of steps


class Shape(NamedTuple):
    """B batch, T time, D input, N units."""

    B: int
    T: int
    D: int
    N: int

    def __str__(self) -> str:
        return f"({self.B},{self.T},{self.D},{self.N})"


class Weights(NamedTuple):
    """Weights in jlstm's layout, gate order i, f, g, o: kernel [D, 4N], recurrent_kernel [N, 4N], bias [4N]."""

    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray


SHAPES = (
    Shape(1, 1, 32, 128),
    Shape(1, 100, 32, 64),
    Shape(32, 100, 32, 128),
    Shape(64, 256, 128, 256),
    Shape(128, 100, 256, 512),
)
MIDDLE = SHAPES[2]  # what sweeps go around, and what compile times are taken at
STREAM = Shape(1, 1, 32, 128)
MANY = Shape(32, 100, 2, 32)
MODELS = 8  # trained at once, of shape MANY


def gflop(shape: Shape, section: str) -> float:
    """Count the floating-point operations, in 10⁹: 2 B T 4N (D + N) forward, three times that for a training step."""
    B, T, D, N = shape
    forward = 2e-9 * B * T * 4 * N * (D + N)
    return {"forward": 1, "streaming": 1, "streaming_numpy": 1, "step": 3, "many": 3 * MODELS}[section] * forward


def draw(shape: Shape, seed: int = 0) -> tuple[Weights, np.ndarray]:
    """Draw weights U(-1/√N, 1/√N), as torch does, and a normal x [B, T, D], float32."""
    B, T, D, N = shape
    rng = np.random.default_rng(seed)
    bound = N**-0.5
    weights = Weights(*(rng.uniform(-bound, bound, s).astype(np.float32) for s in ((D, 4 * N), (N, 4 * N), (4 * N,))))
    return weights, rng.normal(size=(B, T, D)).astype(np.float32)


def reorder(array: np.ndarray, given: str, wanted: str, axis: int = -1) -> np.ndarray:
    """Reorder the four gate blocks along an axis, as in reorder(kernel, "ifgo", "igfo")."""
    blocks = dict(zip(given, np.split(np.asarray(array), 4, axis), strict=True))
    return np.concatenate([blocks[gate] for gate in wanted], axis)


def disagreement(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> tuple[str, float]:
    """Name the array that differs most, and by how much relative to the largest magnitude of the wanted one."""
    errors = {}
    for name, want in wanted.items():
        got = found[name]
        if got.shape != want.shape:
            raise ValueError(f"{name} must have shape {want.shape}, got {got.shape}")
        error = float(np.max(np.abs(got - want)) / max(float(np.max(np.abs(want))), 1e-30))
        errors[name] = error if np.isfinite(error) else float("inf")
    worst = max(errors, key=errors.__getitem__)
    return worst, errors[worst]
