"""Build the extension module: the Swift library by SwiftPM, then the C shim linked with it.

Everything else about the package is in pyproject.toml.
"""

import ctypes
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections import defaultdict
from glob import glob
from pathlib import Path
from typing import TypeVar

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import SetupError

ROOT = Path(__file__).resolve().parent

# One extension serves every Python from 3.10 on; free-threaded ones have no stable ABI.
ABI3 = not sysconfig.get_config_var("Py_GIL_DISABLED")


class BuildSwiftmax(build_ext):
    """Builds the Swift library first, and refuses an extension that needs more than libc."""

    def run(self) -> None:
        """Build the library first, so that the extension is linked anew whenever that changed."""
        self.check_requirements()
        # Not in build_temp: the library knows nothing of Python, so one build of it serves all.
        self.scratch = ROOT / "build" / "swift"
        self.build_library()
        super().run()

    def check_requirements(self) -> None:
        """Stop with one sentence that says what is missing and what to install."""
        if sys.platform != "linux":
            raise SetupError(f"swiftmax builds on Linux; this is {sys.platform}.")
        if shutil.which("swift") is None or shutil.which("swiftc") is None:
            raise SetupError(
                "swiftmax needs the Swift toolchain, 6.0 or newer, to build, and found no `swift`: "
                "install it from swift.org/install and put its usr/bin on PATH."
            )
        compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
        for tool in (compiler, "ar", "ld", "nm", "objcopy"):
            if shutil.which(tool) is None:
                raise SetupError(
                    f"swiftmax needs a C compiler and binutils to build, and found no `{tool}`: "
                    "install gcc (Debian and Ubuntu: apt-get install gcc; Fedora: dnf install gcc)."
                )
        include = sysconfig.get_path("include")
        if not Path(include, "Python.h").exists():
            raise SetupError(
                "swiftmax needs the headers of Python to build, and found no Python.h in "
                f"{include}: install them (Debian and Ubuntu: apt-get install python3-dev; "
                "Fedora: dnf install python3-devel)."
            )
        if not Path(numpy_include(), "numpy", "arrayobject.h").exists():
            raise SetupError(
                "swiftmax needs NumPy and its headers to build, and found none: pip install numpy "
                "(Debian and Ubuntu, for their own Python: apt-get install python3-numpy-dev or, "
                "where there is no such package, python3-numpy)."
            )

    def build_library(self) -> None:
        """Run SwiftPM and add its products to the extension."""
        command = ["swift", "build", "--configuration", "release", "--product", "Swiftmax"]
        command += ["--package-path", str(ROOT), "--scratch-path", str(self.scratch)]
        if subprocess.run(command).returncode != 0:
            raise SetupError(
                "swiftmax could not be built: `swift build` failed, as shown above. (If this "
                "folder was moved since the last build, remove build/ and try again.)"
            )
        products = self.scratch / "release"
        # The linker takes of libSwiftmax.a what these do not define, which is all but the kernels.
        libraries = [
            *isolate_variants(products),
            *(
                trimmed(library, self.scratch)
                for library in (products / "libSwiftmax.a", *dispatch_libraries())
            ),
        ]
        for extension in self.extensions:
            extension.extra_objects += [str(library) for library in libraries]
            extension.depends += [str(library) for library in libraries]

    def build_extension(self, ext: Extension) -> None:
        """Compile and link the shim, then look at what came out."""
        ext.include_dirs.append(numpy_include())
        super().build_extension(ext)
        product = Path(self.get_ext_fullpath(ext.name))
        try:
            check_extension(product)
        except SetupError:
            product.unlink()
            raise


def run(*command: str | Path) -> str:
    """What a command prints; its failure is that of the build."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def numpy_include() -> str:
    """The folder of NumPy's headers, empty where there is no NumPy."""
    try:
        import numpy
    except ImportError:
        return ""
    return numpy.get_include()


def dispatch_libraries() -> list[Path]:
    """The toolchain's static libdispatch, and the runtime of C blocks that it needs."""
    info = json.loads(run("swiftc", "-print-target-info", "-static-stdlib"))
    folders = [Path(path) for path in info["paths"]["runtimeLibraryPaths"]]
    found = []
    for name in ("libdispatch.a", "libBlocksRuntime.a"):
        paths = [folder / name for folder in folders if (folder / name).exists()]
        if not paths:
            raise SetupError(
                f"swiftmax needs the static libraries of the Swift toolchain, and found no {name} "
                f"in {', '.join(map(str, folders))}: install the complete toolchain from "
                "swift.org/install."
            )
        found.append(paths[0])
    return found


# Nothing is ever thrown through the library, and a tenth of its size would be for that.
NO_UNWINDING = "--remove-section=.eh_frame"

# Of libdispatch, in init.c.o: every attribute that a queue can have, a fifteenth of the extension.
# No queue is created here, so nothing ever looks at them.
ATTRIBUTES = "_dispatch_queue_attrs"


def trimmed(library: Path, folder: Path) -> Path:
    """Make a copy of a static library without what the extension has no use for."""
    target = folder / library.name
    if not target.exists() or target.stat().st_mtime < newest(library, Path(__file__)):
        run("objcopy", NO_UNWINDING, library, target)
        if library.name == "libdispatch.a":
            member = folder / "init.c.o"
            printed = subprocess.run(
                ["ar", "p", target, member.name], check=True, stdout=subprocess.PIPE
            ).stdout
            member.write_bytes(without_data(printed, ATTRIBUTES))
            run("ar", "r", target, member)
    return target


class Section(ctypes.LittleEndianStructure):
    """A section header of ELF for 64 bits."""

    SYMBOLS, RELOCATIONS = 2, 4
    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("name", "type")),
        *((name, ctypes.c_uint64) for name in ("flags", "address", "offset", "size")),
        *((name, ctypes.c_uint32) for name in ("link", "info")),
        *((name, ctypes.c_uint64) for name in ("alignment", "entry_size")),
    )


class Symbol(ctypes.LittleEndianStructure):
    """A symbol, or a whole section where `kind` is SECTION."""

    SECTION = 3
    _fields_ = (
        ("name", ctypes.c_uint32),
        ("kind", ctypes.c_uint8, 4),
        ("binding", ctypes.c_uint8, 4),
        ("visibility", ctypes.c_uint8),
        ("section", ctypes.c_uint16),
        ("value", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
    )


class Relocation(ctypes.LittleEndianStructure):
    """A place in a section, and what is to be found there."""

    _fields_ = (
        ("offset", ctypes.c_uint64),
        ("kind", ctypes.c_uint32),
        ("symbol", ctypes.c_uint32),
        ("addend", ctypes.c_int64),
    )


Entry = TypeVar("Entry", Symbol, Relocation)


def without_data(content: bytes, name: str) -> bytes:
    """Cut the data of a symbol, if there, out of an object file; what follows it moves up."""
    elf = bytearray(content)
    first = ctypes.c_uint64.from_buffer(elf, 40).value
    count = ctypes.c_uint16.from_buffer(elf, 60).value
    sections = [Section.from_buffer(elf, first + i * ctypes.sizeof(Section)) for i in range(count)]

    def entries(section: Section, kind: type[Entry]) -> list[Entry]:
        places = range(section.offset, section.offset + section.size, ctypes.sizeof(kind))
        return [kind.from_buffer(elf, place) for place in places]

    table = next(section for section in sections if section.type == Section.SYMBOLS)
    symbols = entries(table, Symbol)
    names = sections[table.link].offset
    wanted = name.encode() + b"\0"
    found = [symbol for symbol in symbols if elf.startswith(wanted, names + symbol.name)]
    if not found:
        return content
    cut = found[0]
    holder, index = sections[cut.section], cut.section
    start, size = cut.value, cut.size
    end = start + size

    rest = elf[holder.offset + end : holder.offset + holder.size]
    elf[holder.offset + start : holder.offset + start + len(rest)] = rest
    holder.size -= size
    for symbol in symbols:
        if symbol.section == index and symbol.value >= end:
            symbol.value -= size
    for section in sections:
        if section.type != Section.RELOCATIONS:
            continue
        kept = bytearray()
        for relocation in entries(section, Relocation):
            if section.info == index and start <= relocation.offset < end:
                continue
            if section.info == index and relocation.offset >= end:
                relocation.offset -= size
            target = symbols[relocation.symbol]
            is_by_place = target.kind == Symbol.SECTION and target.section == index
            if is_by_place and relocation.addend > start:
                relocation.addend -= size
            kept += bytes(relocation)
        elf[section.offset : section.offset + len(kept)] = kept
        section.size = len(kept)
    return bytes(elf)


def newest(*paths: Path) -> float:
    """When the last of these files was changed."""
    return max(path.stat().st_mtime for path in paths)


def isolate_variants(products: Path) -> list[Path]:
    """Make one object of each kernel variant, with its entry as the only global symbol.

    Two variants can hold weak copies of the same function, such as a generic of the standard
    library. The linker would keep one of them for all: code for AVX-512, say, on a CPU without.
    """
    # Not the folders' contents: objects of sources that are gone may still lie there.
    listed = (products / "Swiftmax.product" / "Objects.LinkFileList").read_text()
    variants = defaultdict(list)
    for path in map(Path, shlex.split(listed)):
        if path.parent.name.startswith("Kernels"):
            variants[path.parent.with_suffix(".o")].append(path)
    for target, objects in variants.items():
        if not target.exists() or target.stat().st_mtime < newest(*objects):
            merged = target.with_suffix(".merged.o")
            run("ld", "--relocatable", "--force-group-allocation", "-o", merged, *objects)
            run(
                "objcopy",
                "--wildcard",
                "--keep-global-symbol=swiftmax_kernels_*",
                NO_UNWINDING,
                "--remove-section=.swift_modhash",
                merged,
                target,
            )
    return list(variants)


def symbols(product: Path, kind: str) -> list[list[str]]:
    """The dynamic symbols that are defined or undefined: of each, its name, type and more."""
    return [
        line.split()
        for line in run("nm", "--format=posix", "--dynamic", f"--{kind}-only", product).splitlines()
    ]


def check_extension(product: Path) -> None:
    """Refuse an extension that exports more than it must, or that needs the Swift runtime."""
    exported = [name for name, *_ in symbols(product, "defined")]
    if exported != ["PyInit__core"]:
        raise SetupError(
            f"{product.name} must export PyInit__core alone, not {', '.join(exported)}."
        )
    # Symbols of glibc carry a version (memcpy@GLIBC_2.14); those of Python are the host's.
    for name, kind, *_ in symbols(product, "undefined"):
        if kind not in "wv" and "@GLIBC_" not in name and not re.match("_?Py", name):
            raise SetupError(
                f"{product.name} needs the symbol {name}, which neither libc nor Python has: if it "
                "is one of the Swift runtime, some code allocates memory or is not specialized."
            )


setup(
    license="Apache-2.0",
    ext_modules=[
        Extension(
            "swiftmax._core",
            sources=sorted(glob("python/swiftmax/_*.c")),
            depends=[*glob("python/swiftmax/_*.h"), "python/swiftmax/_core.map"],
            include_dirs=["Sources/CSwiftmax/include"],
            define_macros=[("Py_LIMITED_API", "0x030A0000")] if ABI3 else [],
            py_limited_api=ABI3,
            extra_compile_args=[
                "-std=c11",
                "-O2",
                "-Wall",
                "-Wextra",
                "-fvisibility=hidden",
                "-fno-asynchronous-unwind-tables",
            ],
            extra_link_args=[
                "-Wl,--version-script=python/swiftmax/_core.map",
                "-Wl,--gc-sections",
                "-Wl,--strip-all",
                "-Wl,-z,noseparate-code",
            ],
        )
    ],
    cmdclass={"build_ext": BuildSwiftmax},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if ABI3 else {},
)
