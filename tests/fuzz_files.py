"""Load mutated files, one after the other in one process of limited memory; tell what came of them as JSON.

    python tests/fuzz_files.py FILES SEED

Each must load to something valid or raise ValueError that names the file. A file that does neither is kept, and its
path told.
"""

import collections
import json
import os
import random
import resource
import struct
import sys
import tempfile
import time
import traceback

import jax
import numpy as np

import jlstm
from jlstm.paths import first_size, fitting, params_like, state_like

MEMORY = 512 * 2**20  # bytes of address space beyond what the process has when the fuzzing starts

SPECS = (
    jlstm.LSTM(2),
    jlstm.LSTM(2, param_dtype="bfloat16", variant=jlstm.Variant(peephole=True, projection=1)),
    jlstm.Bidirectional(jlstm.LSTM(1, kernel_regularizer=jlstm.L2(0.5)), merge_mode=None),
    jlstm.Stack((jlstm.LSTM(1, return_sequences=True, use_bias=False), jlstm.LSTM(2)), dropout=0.25),
)

RAW = {"NaN": "NaN", "inf": "1e999", "long": "9" * 5000, "deep": "[" * 3000 + "]" * 3000}  # no Python value says these
JUNK = (
    *(None, True, False, -1, 0, 1, 3, 1.5, -0.0, 1e308, 2**31, 2**40, 2**63, 2**64, 10**17, 10**30),
    *("", "x", "LSTM", "Stack", "F32", "F16", "BF16", "F64", "I8", "float64", "none", "\0", "a" * 3000, "\ud800"),
    *([], {}, [[]], [1, 2], {"name": "LSTM"}, {"name": "L2", "l2": -1}, {"name": "Variant"}, {"name": 5}),
    *(f"@{raw}@" for raw in RAW),
)


def dump(value):
    text = json.dumps(value)
    for name, raw in RAW.items():
        text = text.replace(f'"@{name}@"', raw)
    return text


def parts(content):
    """The header of a file as JSON, and its data."""
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def whole(header, data):
    text = header if isinstance(header, bytes) else dump(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def nodes(value, path=()):
    """The paths of all nodes below a JSON value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from nodes(child, (*path, key))


def edit(rng, value):
    """Replace, delete, rename or double a node of a JSON value."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        paths = list(nodes(value))
        if not paths:
            return value
        *above, key = rng.choice(paths)
        parent = value
        for step in above:
            parent = parent[step]
        action = rng.randrange(5)
        if action == 0:
            del parent[key]
        elif action == 1 and isinstance(parent, dict):
            parent[rng.choice(("x", "name", "units", "layers", "params/kernel", str(key) + "x"))] = parent.pop(key)
        elif action == 2 and isinstance(parent, list):
            parent.insert(rng.randrange(len(parent) + 1), parent[key])
        elif action == 3 and isinstance(parent[key], (int, float)):
            parent[key] = rng.choice((parent[key] + 1, -parent[key], parent[key] * 2, parent[key] / 2, 2**62))
        else:
            parent[key] = json.loads(json.dumps(rng.choice(JUNK)))
    return value


def flip_bits(rng, content, other):
    content = bytearray(content)
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(rng.choice((1, 1, 2, 8))):
        content[rng.randrange(rng.choice((8, header, header, len(content))))] ^= 1 << rng.randrange(8)
    return bytes(content)


def flip_data(rng, content, other):
    content = bytearray(content)
    content[-1 - rng.randrange(8)] ^= 1 << rng.randrange(8)
    return bytes(content)


def truncate(rng, content, other):
    return content[: rng.randrange(len(content))]


def extend(rng, content, other):
    return content + rng.randbytes(rng.choice((1, 2, 8, 1000)))


def splice(rng, content, other):
    return content[: rng.randrange(len(content))] + other[rng.randrange(len(other)) :]


def header_length(rng, content, other):
    length = struct.unpack("<Q", content[:8])[0]
    wrong = rng.choice((0, 1, length - 1, length + 1, length * 2, len(content), 2**22, 2**31, 2**62, 2**63, 2**64 - 1))
    return struct.pack("<Q", wrong) + content[8:]


def edit_header(rng, content, other):
    header, data = parts(content)
    return whole(edit(rng, header), data)


def edit_document(rng, content, other):
    header, data = parts(content)
    about = edit(rng, json.loads(header["__metadata__"]["jlstm"]))
    header["__metadata__"]["jlstm"] = dump(about)
    return whole(header, data)


def edit_text(rng, content, other):
    """Bytes of the document's JSON changed, deleted or doubled."""
    header, data = parts(content)
    text = list(header["__metadata__"]["jlstm"])
    for _ in range(rng.choice((1, 2, 5))):
        at = rng.randrange(len(text))
        text[at : at + rng.choice((0, 1, 5))] = rng.choice(('"', "{", "}", "[", ",", ":", "0", "e", "-", "\\u0000", ""))
    header["__metadata__"]["jlstm"] = "".join(text)
    return whole(header, data)


def another_spec(rng, content, other):
    """The tensors of one file under the document of another."""
    header, data = parts(content)
    header["__metadata__"] = parts(other)[0]["__metadata__"]
    return whole(header, data)


def offsets(rng, content, other):
    """Overlapping, doubled, swapped or wandering offsets."""
    header, data = parts(content)
    names = [name for name in header if name != "__metadata__"]
    a, b = rng.choice(names), rng.choice(names)
    one, two = header[a]["data_offsets"], header[b]["data_offsets"]
    by = rng.choice((1, 4, -4, 2**40, 2**63 - 1))
    header[a]["data_offsets"] = rng.choice(
        (two, one[::-1], [0, one[1]], [one[0], len(data)], [one[0] + by, one[1] + by], [one[0], one[1] + by], [0, 0])
    )
    if rng.random() < 0.5:
        header[b]["data_offsets"] = one
    return whole(header, data)


def shapes(rng, content, other):
    """Sizes that are huge, and dtypes that are others, here and in the spec."""
    header, data = parts(content)
    name = rng.choice([name for name in header if name != "__metadata__"])
    huge = rng.choice((2**20, 2**31, 2**40, 2**62, 2**64 - 1, 10**17))
    tensor = header[name]
    if rng.random() < 0.7:
        shape = tensor["shape"]
        tensor["shape"] = rng.choice(([huge] * len(shape), [0, huge], [huge, 0], [*shape, 1], shape[::-1], [1] * 5000))
        if rng.random() < 0.3:
            tensor["data_offsets"][1] = tensor["data_offsets"][0]
    else:
        tensor["dtype"] = rng.choice(("F16", "BF16", "F32", "F64", "I16", "I64", "BOOL", "F8_E4M3", "C64", "", "f32"))
    if rng.random() < 0.5:
        about = json.loads(header["__metadata__"]["jlstm"])
        about["spec"]["units"] = huge
        header["__metadata__"]["jlstm"] = dump(about)
    return whole(header, data)


def deep(rng, content, other):
    """Nests of thousands of levels, in the header or in the document."""
    header, data = parts(content)
    depth = rng.choice((50, 150, 500, 2000, 50_000))
    opened, closed = rng.choice((("[", "]"), ('{"a":', "}"), ('{"name":"Stack","layers":[', "]}")))
    nest = opened * depth + rng.choice(("1", '{"name":"LSTM","units":2}', "")) + closed * rng.choice((depth, 0, depth))
    if rng.random() < 0.3:
        return whole(f'{{"x":{nest}}}'.encode(), data)
    header["__metadata__"]["jlstm"] = f'{{"version":1,"spec":{nest}}}'
    return whole(header, data)


def repeat_keys(rng, content, other):
    """A name twice in the header, or very many layers in the document."""
    header, data = parts(content)
    if rng.random() < 0.5:
        text = dump(header)[1:]
        return whole(("{" + text[:-1] + "," + text).encode(), data)
    layer = '{"name":"LSTM","units":1,"return_sequences":true}'
    many = ",".join([layer] * rng.choice((10, 100, 1000)))
    header["__metadata__"]["jlstm"] = f'{{"version":1,"spec":{{"name":"Stack","layers":[{many}]}}}}'
    return whole(header, data)


def rubbish(rng, content, other):
    return rng.choice((b"", b"\0" * 100, rng.randbytes(rng.randrange(200)), b"\x80\x04\x95" + rng.randbytes(40)))


MUTATIONS = (
    *(flip_bits, flip_bits, flip_data, truncate, extend, splice, header_length, edit_header, edit_header),
    *(edit_document, edit_document, edit_document, edit_document, edit_text, edit_text, another_spec),
    *(offsets, offsets, shapes, shapes, deep, repeat_keys, rubbish),
)


def load(path):
    """Load a file and tell what came of it: "loaded", or the stage at which it was refused."""
    try:
        spec, params, state = jlstm.load(path)
    except ValueError as error:
        text = str(error)
        assert text.startswith(f"{path} must ") or text.startswith(f"{path}: the dtype of "), text
        assert len(text) < 1000, text[:2000]
        for stage in (
            "safetensors file",
            "of format version",
            "JSON",
            "spec that jlstm can make",
            "tensors of its spec",
        ):
            if stage in text:
                return stage
        return "a tensor"
    fitting("params", params, params_like(spec, first_size(params)))
    if state is not None:
        fitting("state", state, state_like(spec, first_size(state)))
    assert jlstm.from_dict(spec.to_dict()) == spec
    return "loaded"


def main(files, seed):
    rng = random.Random(seed)
    told = collections.Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.safetensors")
        originals = []
        for spec in SPECS:
            params = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), params_like(spec, 2))
            for state in (None, spec.initial_state(1, "float16")):
                jlstm.save(path, spec, params, state)
                assert load(path) == "loaded"
                with open(path, "rb") as file:
                    originals.append(file.read())
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(files):
            mutation = rng.choice(MUTATIONS)
            content = mutation(rng, rng.choice(originals), rng.choice(originals))
            with open(path, "wb") as file:
                file.write(content)
            start = time.perf_counter()
            try:
                told[load(path)] += 1
            except BaseException:
                with tempfile.NamedTemporaryFile("wb", delete=False, suffix=".safetensors") as kept:
                    kept.write(content)
                traceback.print_exc()
                print(f"file {number} by {mutation.__name__} is kept as {kept.name}", file=sys.stderr)
                sys.exit(1)
            slowest = max(slowest, time.perf_counter() - start)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"outcomes": told, "slowest s": slowest, "grown MiB": grown}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
