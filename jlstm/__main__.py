"""The command line: python -m jlstm explain, doctor, convert, export. Exit status: 1 failed; 2 called wrongly."""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from jlstm import export
from jlstm.compose import Bidirectional, Stack
from jlstm.convert import FORMATS, check_target, convert, format_of, read, read_spec
from jlstm.describe import explain
from jlstm.doctor import doctor
from jlstm.layers import LSTM
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

    text = "explain what a layer configures: weights, shapes, times, costs, and the layer in other libraries"
    sub = commands.add_parser("explain", help=text, description=f"{text[0].upper()}{text[1:]}.")
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument("--units", type=_size, metavar="N", help="an LSTM of N units")
    which.add_argument("--spec", metavar="FILE", help="a spec (.json, .toml), as to_dict writes it")
    sub.add_argument("--input-size", type=_size, metavar="D", required=True, help="the width of x")
    sub.add_argument("--timesteps", type=_size, metavar="T")
    sub.add_argument("--batch-size", type=_size, metavar="B")
    for name in ("return-sequences", "go-backwards", "bidirectional"):
        sub.add_argument(f"--{name}", action="store_true", help="with --units")
    sub.add_argument("--layers", type=_size, default=1, metavar="L", help="so many on top of each other, with --units")
    sub.add_argument("--html", metavar="FILE", help="write a page; prints its name instead of the text")
    sub.add_argument("--json", action="store_true", help="print the content as JSON, with --html too")
    sub.add_argument("--force", action="store_true", help="replace FILE where it exists")
    sub.set_defaults(run=_explain, usage=sub.error)

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


def _explain(given: argparse.Namespace) -> str:
    shape = given.return_sequences or given.go_backwards or given.bidirectional or given.layers > 1
    if given.spec and shape:
        given.usage("--return-sequences, --go-backwards, --bidirectional and --layers go with --units, not --spec")
    if given.html:
        check_target(given.html, given.force)
    asked = explain(
        read_spec(given.spec) if given.spec else _spec(given),
        given.input_size,
        given.timesteps,
        given.batch_size,
    )
    if given.html:
        asked.save(given.html)
    if given.json:
        return json.dumps(asked.data, indent=1, ensure_ascii=False)
    return f"{given.html}: {asked.asked.spec!r}" if given.html else str(asked)


def _spec(given: argparse.Namespace) -> LSTM | Bidirectional | Stack:
    specs = []
    for number in range(given.layers):
        sequences = given.return_sequences or number < given.layers - 1
        one = LSTM(given.units, return_sequences=sequences, go_backwards=given.go_backwards)
        specs.append(Bidirectional(one) if given.bidirectional else one)
    return specs[0] if len(specs) == 1 else Stack(tuple(specs))


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
        written = given.run in (_convert, _export) or getattr(given, "html", None)  # the work is done
        return 0 if written else 1
    return 0


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
