"""The package as built: the extension's exports, needs and size, its stubs and docstrings."""

import doctest
import importlib.metadata
import inspect
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import setuptools
import swiftmax
from setuptools.errors import SetupError
from swiftmax import _core

EXTENSION = Path(_core.__file__)
SETUP = Path(__file__).parents[2] / "setup.py"
FUNCTIONS = [name for name in swiftmax.__all__ if name != "show_config"]


def output_of(*command: object) -> str:
    """What a command prints; the test is skipped where the command is not installed."""
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"needs {command[0]}")
    arguments = [str(argument) for argument in command]
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout


# ---- The shared object --------------------------------------------------------------------------


def test_exports_its_init_function_alone() -> None:
    """Anything else could collide with a library that the process loads beside it."""
    lines = output_of("nm", "--dynamic", "--defined-only", EXTENSION).splitlines()
    assert [line.split()[-1] for line in lines] == ["PyInit__core"]


def test_needs_libc_and_its_companions_alone() -> None:
    """No Swift runtime, no C++ runtime but possibly the system's."""
    needed = set(re.findall(r"NEEDED.*\[(.*?)\]", output_of("readelf", "--dynamic", EXTENSION)))
    assert "libc.so.6" in needed
    loader = {name for name in needed if name.startswith("ld-linux")}
    assert needed - loader <= {"libc.so.6", "libm.so.6", "libpthread.so.0", "libstdc++.so.6"}


def test_is_under_one_megabyte() -> None:
    """The issue of every peer with wheels of hundreds of them."""
    assert EXTENSION.stat().st_size < 1_000_000


def test_importing_it_imports_numpy_alone() -> None:
    """NumPy is the only dependency: ml_dtypes is used where the caller has it, and never loaded."""
    code = (
        "import sys, numpy; before = set(sys.modules); import swiftmax; "
        "swiftmax.softmax(numpy.ones(3)); print(*sorted(set(sys.modules) - before))"
    )
    loaded = output_of(sys.executable, "-c", code).split()
    assert {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names == {"swiftmax"}


# ---- The Python package -------------------------------------------------------------------------


def test_version_is_that_of_the_library() -> None:
    """pyproject.toml and the Swift library each state it."""
    assert importlib.metadata.version("swiftmax") == swiftmax.__version__


def test_is_typed() -> None:
    """Type checkers read the stubs only where py.typed lies beside them."""
    package = Path(swiftmax.__file__).parent
    assert (package / "py.typed").exists()
    assert (package / "_core.pyi").exists()


def test_stubs_match_the_extension() -> None:
    """mypy's stubtest compares names, parameters and defaults."""
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy.stubtest", "swiftmax"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=SETUP.parent)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_documented_and_introspectable(name: str) -> None:
    """Although they are written in C."""
    function = getattr(swiftmax, name)
    assert function.__module__ == "swiftmax"
    assert inspect.getdoc(function)
    assert inspect.signature(function)
    assert pickle.loads(pickle.dumps(function)) is function


@pytest.mark.parametrize("name", FUNCTIONS)
def test_examples_in_docstrings_are_true(name: str) -> None:
    """doctest does not find docstrings of C functions by itself."""
    tests = doctest.DocTestFinder().find(getattr(swiftmax, name), name, module=False)
    for test in tests:
        assert doctest.DocTestRunner().run(test).failed == 0


def test_show_config(capsys: pytest.CaptureFixture[str]) -> None:
    """Prints or returns the same facts."""
    config = swiftmax.show_config("dicts")
    assert config["isa"] in config["isas"]
    assert config["version"] == swiftmax.__version__
    swiftmax.show_config()
    printed = capsys.readouterr().out
    assert all(re.search(rf"^{key}: ", printed, re.MULTILINE) for key in config)
    with pytest.raises(ValueError, match="'json'"):
        swiftmax.show_config("json")  # type: ignore[call-overload]


# ---- The checks of the build --------------------------------------------------------------------


@pytest.fixture(scope="module")
def build_script() -> ModuleType:
    """setup.py as a module, without what it does when it runs."""
    if not SETUP.exists():
        pytest.skip("needs the source tree")
    module = ModuleType("build_script")
    module.__file__ = str(SETUP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **_: None)
        exec(compile(SETUP.read_text(), SETUP, "exec"), module.__dict__)
    return module


def compile_c(source: str, target: Path, *flags: str) -> Path:
    """Compile a C source given as text."""
    target.parent.mkdir(parents=True, exist_ok=True)
    file = target.with_suffix(".c")
    file.write_text(source)
    output_of("gcc", *flags, file, "-o", target)
    return target


def test_build_refuses_a_second_export(build_script: ModuleType, tmp_path: Path) -> None:
    """Names all that is exported."""
    source = "void PyInit__core(void) {} void stray(void) {}"
    library = compile_c(source, tmp_path / "_core.so", "-shared", "-fPIC")
    with pytest.raises(SetupError, match="stray"):
        build_script.check_extension(library)


def test_build_refuses_the_swift_runtime(build_script: ModuleType, tmp_path: Path) -> None:
    """As an allocation in Swift would need it."""
    source = "void swift_allocObject(void); void PyInit__core(void) { swift_allocObject(); }"
    library = compile_c(source, tmp_path / "_core.so", "-shared", "-fPIC")
    with pytest.raises(SetupError, match="swift_allocObject"):
        build_script.check_extension(library)


def test_build_accepts_libc_and_python(build_script: ModuleType, tmp_path: Path) -> None:
    """The counterpart of the two above."""
    source = (
        "#include <stdlib.h>\nvoid PyErr_Clear(void);"
        "void PyInit__core(void) { PyErr_Clear(); free(malloc(1)); }"
    )
    build_script.check_extension(
        compile_c(source, tmp_path / "_core.so", "-shared", "-fPIC", "-fno-builtin")
    )


def test_build_keeps_variants_apart(build_script: ModuleType, tmp_path: Path) -> None:
    """Of two weak functions of one name the linker would keep one, for all CPUs."""
    objects = []
    for variant in ("avx2", "avx512"):
        source = (
            "__attribute__((weak, noinline)) const char *generic(void) "
            f'{{ return "{variant}"; }} '
            f"const char *swiftmax_kernels_{variant}(void) {{ return generic(); }}"
        )
        target = tmp_path / f"Kernels_{variant}.build" / "a.o"
        objects.append(str(compile_c(source, target, "-c")))
    list_file = tmp_path / "Swiftmax.product" / "Objects.LinkFileList"
    list_file.parent.mkdir()
    list_file.write_text("\n".join(objects))
    source = (
        "#include <stdio.h>\n"
        "const char *swiftmax_kernels_avx2(void); const char *swiftmax_kernels_avx512(void);"
        'int main(void) { printf("%s %s", swiftmax_kernels_avx2(), swiftmax_kernels_avx512()); }'
    )
    variants = build_script.isolate_variants(tmp_path)
    program = compile_c(source, tmp_path / "program", *map(str, variants))
    assert output_of(program) == "avx2 avx512"


@pytest.mark.parametrize(
    ("tools", "missing"), [([], "Swift toolchain"), (["swift", "swiftc"], "C compiler")]
)
def test_a_missing_tool_stops_the_build(
    tools: list[str], missing: str, build_script: ModuleType, tmp_path: Path
) -> None:
    """In one sentence that says what to install."""
    for tool in tools:
        (tmp_path / tool).write_text("#!/bin/sh\n")
        (tmp_path / tool).chmod(0o755)
    command = [sys.executable, str(SETUP), "--quiet", "build_ext"]
    result = subprocess.run(
        command, env={"PATH": str(tmp_path)}, cwd=SETUP.parent, capture_output=True, text=True
    )
    assert result.returncode != 0
    assert re.search(rf"^error: swiftmax needs .*{missing}.* install", result.stderr, re.MULTILINE)


def test_missing_headers_stop_the_build(
    build_script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a Debian without python3-dev, or without NumPy."""
    command = build_script.BuildSwiftmax(setuptools.Distribution())
    command.check_requirements()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "numpy", None)
        with pytest.raises(SetupError, match="install numpy"):
            command.check_requirements()
    monkeypatch.setattr(build_script.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(SetupError, match=r"no Python\.h in .*python3-dev"):
        command.check_requirements()
