"""Numbers, shapes and functions in words, for explain."""

from typing import Any

from jlstm import checks


def count(number: int, word: str) -> str:
    """Say how many.

    Example:
        >>> count(1, "unit"), count(3000, "unit")
        ('1 unit', '3,000 units')
    """
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def shape(*sizes: Any) -> str:
    """Write a shape, of numbers or letters."""
    return f"[{', '.join(map(str, sizes))}]"


def listed(parts: list[str]) -> str:
    """Write a list as a sentence does.

    Example:
        >>> listed(["3", "4", "5"])
        '3, 4 and 5'
    """
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def function(value: Any) -> str:
    """Name an option that is a name, one of jlstm's values, or a function."""
    text = value if isinstance(value, str) else checks.written(value)
    return "your own function" if "<" in text else text  # a lambda, or an object that can be called


def flops(number: int) -> str:
    """Write a number of operations."""
    for size, unit in ((10**9, "GFLOP"), (10**6, "MFLOP")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,} FLOP"


def in_bytes(number: int) -> str:
    """Write a number of bytes."""
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,} bytes"
