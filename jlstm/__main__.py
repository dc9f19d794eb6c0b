"""The command line: python -m jlstm doctor, convert, export. Exit status 0: done; 1: failed; 2: called wrongly."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from jlstm import export
from jlstm.convert import FORMATS, check_target, convert, format_of, read, read_spec
from jlstm.doctor import doctor
from jlstm.paths import params_like

PROG = "python -m jlstm"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    # Keras may be set up for a framework that is not here, and jax is; who says otherwise is heard.
    os.environ.setdefault("KERAS_BACKEND", "jax")
    given = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of libraries, about themselves
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning
        try:
            result = given.run(given)
        except Exception as error:  # whatever it is: who types a command reads one line
            known = isinstance(error, (ValueError, TypeError, OSError, ImportError, NotImplementedError))
            kind = "" if known else f"{type(error).__name__}: "
            print(f"{PROG} {given.command}: error: {kind}{' '.join(str(error).split())}", file=sys.stderr)
            return 1
    return _tell(given, result)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROG, description="The LSTM layer as pure functions in JAX.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    told = commands.add_parser("doctor", help="show versions, devices and backends, what is missing and how to get it")
    told.set_defaults(run=_doctor)

    text = "convert a model from one kind of file to another"
    sub = commands.add_parser("convert", help=text, description=f"{text[0].upper()}{text[1:]}, by their extensions.")
    readable, writable = (", ".join(e for e, f in FORMATS.items() if getattr(f, use)) for use in ("read", "write"))
    sub.add_argument("source", metavar="SOURCE", type=_path_to("read"), help=readable)
    sub.add_argument("target", metavar="TARGET", type=_path_to("write"), help=writable)
    sub.add_argument("--prefix", help="what stands before an LSTM's names in a state dict of torch: encoder.lstm.")
    sub.add_argument("--layers", type=_names, help="the layers to take from a Keras model: NAME[,NAME...]")
    sub.add_argument("--spec", help="a JSON or TOML file: the spec (or model.to_json()) of a .weights.h5 file")
    sub.add_argument("--force", action="store_true", help="replace TARGET where it exists")
    sub.set_defaults(run=_convert, usage=sub.error)

    text = "write a jax.export artifact that runs without jlstm"
    sub = commands.add_parser("export", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("source", metavar="SOURCE", help=f"a model ({readable}), or a spec (.json, .toml)")
    sub.add_argument("out", metavar="OUT", help="the artifact; jax.export.deserialize reads it")
    sub.add_argument("--step", action="store_true", help="one time step for streaming, not whole sequences")
    sub.add_argument(
        "--platforms",
        type=_names,
        default=export.PLATFORMS,
        help="some of cpu,cuda,tpu,rocm (default: the first three)",
    )
    sub.add_argument("--padding", choices=("lengths", "mask"), help="take lengths or a mask with each call")
    sub.add_argument("--reset", action="store_true", help="take resets with each call")
    sub.add_argument("--frozen", action="store_true", help="hold the weights, not take them with each call")
    sub.add_argument(
        "--input-size", type=_size, metavar="D", help="the width of x; with a spec, which does not tell it"
    )
    sub.add_argument("--force", action="store_true", help="replace OUT where it exists")
    sub.set_defaults(run=_export, usage=sub.error)
    return parser


def _doctor(given: argparse.Namespace) -> str:
    return "\n".join(doctor())


def _convert(given: argparse.Namespace) -> str:
    options = {name: getattr(given, name) for name in ("prefix", "layers", "spec")}
    options = {name: value for name, value in options.items() if value is not None}
    form = format_of(given.source, "read")
    for name in options:
        if name not in form.options:
            given.usage(f"--{name} is not for {form.name}, as {given.source} is by its extension")
    model = convert(given.source, given.target, force=given.force, **options)
    return f"{given.target}: {model.spec!r}"


def _export(given: argparse.Namespace) -> str:
    of_spec = given.source.endswith((".json", ".toml"))
    if of_spec != (given.input_size is not None):
        given.usage("--input-size is needed with a spec, and not with a model, whose weights tell it")
    if of_spec and given.frozen:
        given.usage("--frozen needs a model: a spec holds no weights")
    if given.step and given.padding:
        given.usage("--padding is for whole sequences, not for --step")
    check_target(given.out, given.force)
    if of_spec:
        spec = read_spec(given.source)
        params: Any = params_like(spec, given.input_size)
    else:
        model = read(given.source)
        spec, params = model.spec, model.params
    options: dict[str, Any] = {name: getattr(given, name) for name in ("reset", "frozen", "platforms")}
    if given.step:
        made = export.step(spec, params, **options)
    else:
        made = export.sequence(spec, params, padding=given.padding, **options)
    export.save(given.out, made)
    taken = [] if given.frozen else ["params"]
    taken += ["state", "x_t" if given.step else "x"]
    taken += [f"{name}=" for name in (given.padding, "reset" if given.reset else None) if name]
    return f"{given.out}: call({', '.join(taken)}) of {spec!r}, for {', '.join(made.platforms)}"


def _path_to(use: str) -> Callable[[str], str]:
    def path(text: str) -> str:
        try:
            format_of(text, use)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return path


def _size(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text}")
    return int(text)


def _names(text: str) -> list[str]:
    return text.split(",")


def _tell(given: argparse.Namespace, text: str) -> int:
    """Print the result of a command that has done its work, and return the exit status."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        if isinstance(error, BrokenPipeError):  # who reads has seen enough
            return 0
        print(f"{PROG} {given.command}: error: the result could not be printed: {error.strerror}", file=sys.stderr)
        return int(given.run is _doctor)  # the other commands have written their file
    return 0


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
