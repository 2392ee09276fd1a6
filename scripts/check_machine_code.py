"""Check the machine code of the kernels' hot loops: `python scripts/check_machine_code.py [OBJECTS]`.

OBJECTS is a folder that `swift build -c release` has filled (default: build/swift/release). Prints, for
each kernel and instruction set, the innermost loops that compute with whole vectors and the
instructions of each by kind; exits with 1 if such a loop calls a function, moves vectors to or from the
stack, or does scalar arithmetic.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

KERNELS = {
    "rowMax": "rowMax",
    "softmaxSum": "softmaxSum",
    "logSum": "logSum",
    "writeSoftmax": "writeSoftmax",
    "writeLogSoftmax": "writeLogSoftmax",
    "softmaxBackwardSum": "softmaxBackwardSum",
    "logSoftmaxBackwardSum": "logSoftmaxBackwardSum",
    "writeSoftmaxBackward": "writeSoftmaxBackward",
    "writeLogSoftmaxBackward": "writeLogSoftmaxBackward",
}
# The registers of whole vectors. The baseline's are those of scalars too, and it has few of them: it is
# for CPUs older than 2013, and is not checked.
REGISTERS = {"AVX512": "zmm", "AVX2": "ymm"}
LINE = re.compile(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*)")
SCALAR = re.compile(r"v?(add|sub|mul|div|max|min|fn?m(add|sub)\d+)s[sd]$")
STACK = re.compile(r"\((%rsp|%rbp)")


class Instruction(NamedTuple):
    address: int
    name: str
    operands: str


def functions(path: Path) -> dict[str, list[Instruction]]:
    """The instructions of each function of an object file."""
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(path)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found: dict[str, list[Instruction]] = {}
    body: list[Instruction] = []
    for line in text.splitlines():
        if line.endswith(">:"):
            body = found.setdefault(line.split("<")[1][:-2], [])
        elif match := LINE.match(line):
            body.append(Instruction(int(match[1], 16), match[2], match[3]))
    return found


def innermost_loops(body: list[Instruction]) -> list[list[Instruction]]:
    """The spans between a jump back and its target that contain no other such span."""
    spans = set()
    for instruction in body:
        target = re.match(r"([0-9a-f]+)", instruction.operands)
        if instruction.name.startswith("j") and target:
            start = int(target[1], 16)
            if body[0].address <= start <= instruction.address:
                spans.add((start, instruction.address))
    inner = [
        (a, b)
        for a, b in spans
        if not any((c, d) != (a, b) and a <= c and d <= b for c, d in spans)
    ]
    return [[i for i in body if a <= i.address <= b] for a, b in sorted(inner)]


def faults(loop: list[Instruction], register: str) -> list[str]:
    """What a hot loop must not do."""
    found = []
    for _, name, operands in loop:
        if name.startswith("call"):
            found.append(f"calls {operands}")
        elif SCALAR.match(name):
            found.append(f"scalar {name}")
        elif name.startswith("vmov") and register in operands and STACK.search(operands):
            found.append(f"spill {name} {operands}")
    return found


def main(folder: Path) -> int:
    bad = 0
    paths = sorted(folder.glob("Kernels*.build/*.o"))
    if not paths:
        print(f"no kernels in {folder}: run `make build` first", file=sys.stderr)
        return 1
    for path in paths:
        module = path.parent.name.removesuffix(".build").removeprefix("Kernels")
        isa = next((name for name in REGISTERS if module.startswith(name)), None)
        if isa is None:
            continue
        register = REGISTERS[isa]
        for symbol, body in functions(path).items():
            kernel = next((k for k in KERNELS if f"{len(k)}{k}" in symbol), None)
            if kernel is None:
                continue
            layout = "columns" if path.name.startswith("ForwardColumns") else "rows"
            for loop in innermost_loops(body):
                arithmetic = sum(
                    register in i.operands and not i.name.startswith("vmov") for i in loop
                )
                if arithmetic < 4:
                    continue
                kinds = Counter("fma" if i.name.startswith("vf") else i.name for i in loop)
                summary = ", ".join(f"{count} {name}" for name, count in kinds.most_common(6))
                wrong = faults(loop, register)
                bad += bool(wrong)
                print(f"{module:14} {kernel:24} {layout:8} {len(loop):4} instructions: {summary}")
                for fault in wrong:
                    print(f"    FAULT: {fault}")
    print("no faults" if bad == 0 else f"{bad} loops with faults")
    return bad != 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/swift/release")))
