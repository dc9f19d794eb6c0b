"""Models from one kind of file to another, told by their extensions."""

import io
import json
import os
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jlstm import files
from jlstm.compose import Bidirectional, Stack, from_dict
from jlstm.layers import LSTM
from jlstm.paths import first_size


@dataclass(frozen=True)
class Model:
    """What a file holds."""

    spec: LSTM | Bidirectional | Stack
    params: Any
    state: Any = None


@dataclass(frozen=True)
class Format:
    """How one kind of file is read and written; None where it is not."""

    name: str
    read: Callable[..., Model] | None  # takes a path and the options by name
    write: Callable[[str, Model], None] | None
    options: tuple[str, ...] = ()  # of reading


def convert(source: files.PathLike, target: files.PathLike, *, force: bool = False, **options: Any) -> Model:
    """Read a model from one file and write it to another; a warning tells what the target cannot hold.

    Args:
        source: a file with one of the extensions in FORMATS.
        target: likewise. It appears when it is complete.
        force: whether to replace a target that is there.
        options: of reading: prefix (of an LSTM's names in a state dict of torch), layers (the names of those to take
            from a Keras model), spec (for weights without a configuration).

    Returns:
        The model.

    Raises:
        ValueError: an unknown extension, an option that the source does not take, a file that is damaged, a model
            that the target cannot express, or a target that is something else than a file.
        FileExistsError: the target is there, and not to be replaced.
        ImportError: a library that reads or writes such files is not installed.

    Example:
        >>> import jax, jlstm, os, tempfile
        >>> from jlstm.convert import convert
        >>> layer = jlstm.LSTM(5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     source, target = (os.path.join(folder, name) for name in ("a.safetensors", "b.safetensors"))
        ...     jlstm.save(source, layer, layer.init(jax.random.key(0), input_size=3))
        ...     convert(source, target).spec
        LSTM(5)
    """
    writer = format_of(target, "write").write
    assert writer is not None  # format_of found one
    check_target(target, force)
    model = read(source, **options)
    writer(os.fspath(target), model)
    return model


def read(path: files.PathLike, **options: Any) -> Model:
    """Read a model from a file of any kind; options and errors as of convert."""
    form = format_of(path, "read")
    for name in options:
        if name not in form.options:
            raise ValueError(f"{name} must be left out for {os.fspath(path)}, {form.name}, got {options[name]!r}")
    assert form.read is not None  # format_of found one
    return form.read(os.fspath(path), **options)


def format_of(path: files.PathLike, use: str) -> Format:
    """Tell the kind of a file by its extension.

    Args:
        path: of the file.
        use: "read" or "write".

    Raises:
        ValueError: none that can be read, or written.
    """
    name = os.fspath(path)
    for extension, form in FORMATS.items():
        if name.endswith(extension) and getattr(form, use) is not None:
            return form
    allowed = ", ".join(extension for extension, form in FORMATS.items() if getattr(form, use) is not None)
    raise ValueError(f"{name} must have one of the extensions {allowed} to {use} it, got another")


def read_spec(path: files.PathLike) -> Any:
    """Read a spec alone, from JSON or TOML as to_dict writes it.

    Raises:
        ValueError: no such file, or no spec.
    """
    name = os.fspath(path)
    data = _plain_data(name)
    try:
        return from_dict(data)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{name} must hold a spec, got an error: {error}") from None


def check_target(path: files.PathLike, force: bool) -> None:
    """Refuse to replace a file unless that is wanted.

    Raises:
        FileExistsError: it is there, and force (on the command line --force) is False.
        ValueError: something else than a file is there.
    """
    files.check_replaceable(path)
    if os.path.lexists(path) and not force:
        raise FileExistsError(f"{os.fspath(path)} must not exist without --force, got a file")


def _plain_data(name: str) -> Any:
    try:
        with open(name, "rb") as file:
            return tomllib.load(file) if name.endswith(".toml") else json.load(file)
    except (ValueError, RecursionError) as error:  # of both parsers, and of text that is not UTF-8
        raise ValueError(f"{name} must be {'TOML' if name.endswith('.toml') else 'JSON'}, got {error}") from None


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_safetensors(path: str, **options: Any) -> Model:
    if not files.is_own(path):
        return _read_torch(path, **options)
    if options:
        raise ValueError(f"prefix must be left out for {path}, which jlstm wrote, got {options['prefix']!r}")
    return Model(*files.load(path))


def _read_torch(path: str, **options: Any) -> Model:
    from jlstm.interop import from_torch

    return Model(*from_torch(path, **options))


def _read_keras(path: str, **options: Any) -> Model:
    from jlstm.interop import from_keras

    return Model(*from_keras(path, **options))


def _read_keras_weights(path: str, *, spec: Any = None, **options: Any) -> Model:
    if isinstance(spec, (str, os.PathLike)):
        data = _plain_data(os.fspath(spec))
        # what model.to_json() gives, or a spec of ours
        spec = data if isinstance(data, dict) and "class_name" in data else read_spec(spec)
    return _read_keras(path, spec=spec, **options)


def _read_onnx(path: str) -> Model:
    from jlstm.interop import from_onnx
    from jlstm.interop.onnx import inputs

    model, constants = Model(*from_onnx(path)), inputs(path)
    if "lengths" in constants:
        warnings.warn(f"the lengths that are constants of {path} are left out: pass them to apply", stacklevel=2)
    return Model(model.spec, model.params, constants.get("state"))


# --- writing ---------------------------------------------------------------------------------------------------------


def _write_own(path: str, model: Model) -> None:
    files.save(path, model.spec, model.params, model.state)


def _write_onnx(path: str, model: Model) -> None:
    from jlstm.interop import to_onnx

    _warn_of_state(path, model)
    files.write(path, to_onnx(model.spec, model.params).SerializeToString())


def _write_torch(path: str, model: Model) -> None:
    from jlstm.interop import to_torch

    _warn_of_state(path, model)
    module = to_torch(model.spec, model.params)
    import torch

    content = io.BytesIO()
    torch.save(module.state_dict(), content)
    files.write(path, content.getvalue())


def _write_keras(path: str, model: Model) -> None:
    from jlstm.interop import to_keras

    _warn_of_state(path, model)
    made = to_keras(model.spec, model.params)
    import keras

    if not isinstance(made, keras.Model):  # a layer alone has no file
        made = keras.Sequential([keras.Input((None, first_size(model.params))), made])
    with files.replacing(path, suffix=".keras") as temporary:
        made.save(temporary)


def _warn_of_state(path: str, model: Model) -> None:
    if model.state is not None:
        warnings.warn(f"the state is left out of {path}, which gets the weights alone", stacklevel=3)


FORMATS = {  # by extension
    ".safetensors": Format("a file of jlstm, or a state dict of torch", _read_safetensors, _write_own, ("prefix",)),
    ".onnx": Format("an ONNX model", _read_onnx, _write_onnx),
    ".keras": Format("a Keras model", _read_keras, _write_keras, ("layers",)),
    ".weights.h5": Format("the weights of a Keras model", _read_keras_weights, None, ("layers", "spec")),
    ".pt": Format("a state dict of torch", _read_torch, _write_torch, ("prefix",)),
    ".pth": Format("a state dict of torch", _read_torch, _write_torch, ("prefix",)),
    ".bin": Format("a state dict of torch", _read_torch, None, ("prefix",)),
}
