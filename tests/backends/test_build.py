"""How the kernel is built: its file's name, a build that fails, and what the compiler made of the innermost loops."""

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jaxlib
import pytest
from conftest import peer

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "jlstm" / "backends" / "csrc"
PACKAGED = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "jlstm")

peer("setuptools")
if int(metadata.version("setuptools").partition(".")[0]) < 77:
    pytest.skip("building takes setuptools 77", allow_module_level=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what the package is made of, without anything that was built."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in PACKAGED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("_cpu-*", "__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def build(checkout, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "setup.py", "-q", *arguments],
        cwd=checkout,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def needs(program):
    """Skip without a program; CI has them all."""
    if shutil.which(program) is None:
        if os.environ.get("JLSTM_REQUIRE_PEERS") == "1":
            pytest.fail(f"JLSTM_REQUIRE_PEERS=1, but there is no {program}")
        pytest.skip(f"there is no {program}")


# --- building -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(checkout):
    """The kernel built as the package builds it: (folder of the objects, library)."""
    needs("g++")
    needs("objdump")
    done = build(checkout, "build_ext", "--build-temp", "objects", "--build-lib", "out")
    assert done.returncode == 0, done.stderr
    libraries = list((checkout / "out").rglob("*.so"))
    assert len(libraries) == 1, done.stderr
    return checkout / "objects" / SOURCES.relative_to(ROOT), libraries[0]


def test_the_file_is_named_after_the_jaxlib_it_was_built_with(built):
    _, library = built
    assert library.parent.parts[-2:] == ("jlstm", "backends")
    assert library.name.startswith(f"_cpu-jaxlib{jaxlib.__version__}-")


def test_the_library_exports_what_python_calls_and_nothing_else_of_ours(built):
    _, library = built
    listed = subprocess.run(["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True)
    names = {line.split()[2] for line in listed.stdout.splitlines() if line.split()[1] == "T"}
    assert names == {"jlstm_forward", "jlstm_backward", "jlstm_interface", "jlstm_instructions"}


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler"])
def test_without_a_working_compiler_the_build_succeeds_and_leaves_no_kernel(checkout, compiler, tmp_path):
    done = build(
        checkout, "build_ext", "--build-temp", str(tmp_path / "objects"), "--build-lib", str(tmp_path / "out"),
        CC=compiler, CXX=compiler,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*.so"))


def test_an_install_without_a_compiler_has_the_package_and_no_kernel(checkout, tmp_path):
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", "--no-index",
            "--disable-pip-version-check", "--target", str(tmp_path), str(checkout),
        ],
        env={**os.environ, "CC": "false", "CXX": "false"},
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    installed = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if "__pycache__" not in p.parts}
    assert {"jlstm/layers.py", "jlstm/backends/cpu.py"} <= installed
    assert not [name for name in installed if name.endswith((".so", ".cc", ".h"))]
    assert not [name for name in installed if name.startswith(("tests", "experiments", "benchmarks"))]
    program = "import jlstm; print(jlstm.__file__); print(jlstm.which_backend(jlstm.LSTM(4), (2, 5, 3)))"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.stdout.splitlines() == [
        str(tmp_path / "jlstm" / "__init__.py"),
        "xla; not cpu: the kernel was not built when jlstm was installed (no C++17 compiler, or the build failed)",
    ], ran.stderr


# --- the generated code ---------------------------------------------------------------------------------------------

FUNCTION = re.compile(r"^[0-9a-f]+ <(.*)>:$")
INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*?)\s*(?:[#<].*)?$")
AVX = re.compile(r"%[yz]mm\d|^v[a-z0-9]+$")


def functions(file):
    """The code of an object, by function: a list of (address, instruction, its operands)."""
    text = subprocess.run(
        ["objdump", "-d", "-C", "--no-show-raw-insn", str(file)], capture_output=True, text=True, check=True
    ).stdout
    found, code = {}, []
    for line in text.splitlines():
        if start := FUNCTION.match(line):
            code = found[start[1]] = []
        elif part := INSTRUCTION.match(line):
            code.append((int(part[1], 16), part[2], part[3]))
    return found


def of_avx(code):
    return [part for part in code if AVX.search(part[1]) or AVX.search(part[2])]


def innermost_loops(code):
    """The bodies of the loops that hold no other: from the target of a jump back to the jump."""
    addresses = [address for address, _, _ in code]
    ends = {}
    for n, (address, name, operands) in enumerate(code):
        target = re.match(r"([0-9a-f]+)$", operands) if name.startswith("j") else None
        if target and int(target[1], 16) <= address and int(target[1], 16) in addresses:
            ends[addresses.index(int(target[1], 16))] = n
    return [
        code[first : last + 1]
        for first, last in ends.items()
        if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in ends.items())
    ]


SETS = {"avx2": ("Avx2", 6, 1), "avx512": ("Avx512", 12, 2)}  # object: the type, rows and panels of a tile


@pytest.fixture(scope="module")
def kernels(built):
    return {name: functions(built[0] / f"{name}.o") for name in SETS}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("tile", ["tile<{}, {}, {}, true>", "tile_transposed<{}, {}, {}>"])
def test_the_sums_of_a_tile_stay_in_registers(kernels, name, tile):
    """GCC has spilled them to the stack where the tile was inlined or its loop unrolled, at 1.8 times the time."""
    kind, rows, panels = SETS[name]
    tile = tile.format(kind, rows, panels)
    named = [
        code for function, code in kernels[name].items()
        if re.search(rf"\b{re.escape(tile)}\(", function.replace("(anonymous namespace)::", ""))
    ]  # fmt: skip
    assert named, f"no function {tile}: it was inlined"
    for code in named:
        loops = [loop for loop in innermost_loops(code) if any("fmadd" in part for _, part, _ in loop)]
        assert len(loops) == 1
        (loop,) = loops
        sums = rows * (2 if kind == "Avx2" else panels)  # a panel is two vectors of AVX2 and one of AVX-512
        assert sum("fmadd" in part for _, part, _ in loop) == sums  # the loop not unrolled
        framed = any(part == "mov" and operands == "%rsp,%rbp" for _, part, operands in code)
        stack = r"\(%r[bs]p" if framed else r"\(%rsp"  # without a frame rbp is a register like others
        # Of the 12 pointers to rows some may lie there; no sum may.
        assert not [part for part in loop if re.search(stack, part[2]) and re.search(r"%[yz]mm", part[2])]


def test_only_the_kernels_use_avx(built, kernels):
    """What runs on any processor must not: the interface to XLA, and what the linker may take from either object."""
    objects, _ = built
    for function, code in functions(objects / "ffi.o").items():
        assert not of_avx(code), function
    for name, of_set in kernels.items():
        assert of_avx(of_set[next(function for function in of_set if "tile<" in function)])  # the search finds some
        command = ["nm", "-C", str(objects / f"{name}.o")]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        shared = {line.split(maxsplit=2)[2] for line in listed.splitlines() if re.match(r"[0-9a-f]+ [TWVu] ", line)}
        assert any(f"jlstm::{name}()" in function for function in shared)
        for function, code in of_set.items():
            if function in shared:
                assert not of_avx(code), function
