"""Check the machine code of the kernels: no calls, spills or scalar arithmetic in a hot loop.

    python scripts/check_machine_code.py [FOLDER]

FOLDER is what `swift build --configuration release` fills (default: build/swift/release). Hot is
each innermost loop of the AVX2 and AVX-512 kernels that computes with whole vectors, but for those
of ``NOT_HOT``. Prints the number of instructions of each loop by kind. The exit status is 1 if a
hot loop has a fault.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

# The registers of whole vectors. The baseline is not checked: it is compiled for size.
REGISTERS = {"AVX512": "zmm", "AVX2": "ymm"}

# Spilled vectors allowed, as a share of a loop's instructions. Eight running sums with the operands
# of four vectors at once are more than the 16 registers of AVX2 hold, and the promised order of the
# sums leaves no fewer. AVX-512 has 32; logSums of Float64 is up to three short, for its count of
# maxima and the maxima of the next row.
SPILLS = {"AVX512": 0.02, "AVX2": 0.125}

# Slices of a few elements are taken by four vectors, some of which do not fit: they take less time
# than two, which do, by a fifth with AVX2 and a seventh with AVX-512. logSums of long rows holds
# the four exponentials before too, to add them up meanwhile: a twentieth less time, though two
# more of Float64 do not fit.
MORE_SPILLS = {
    "setTinyResults": {"AVX512": 0.025, "AVX2": 0.14},
    "logSums": {"AVX512": 0.03, "AVX2": 0.125},
}

# Functions whose innermost loops may be of another kind, and why.
NOT_HOT = {
    "forwardRows": "once for each row",
    "backwardRows": "once for each row",
    "backwardLongRows": "once for each row or block",
    "backwardOtherRows": "once for each row or block",
    "fill": "once for each row or block, by the functions of the table",
    "rowStats": "once for each row",
    "forwardLongRow": "once for each block",
    "HalfFormat.forwardLongRow": "once for each block",
    "longRowStats": "once for each block",
    "writeLongSoftmax": "once for each block",
    "SliceTable.append": "once for each slice and block",
    "SliceTable.setBackwardResults": "once for each slice",
    "preciseLogsumexp": "only where a logsumexp is near 0",
    "preciseLogsumexps": "only where a logsumexp is near 0",
    "writeLongWay": "only where a maximum is large or an element not finite",
    "writeUnusualBackward": "only where a gradient is not finite",
    "writeUnusual": "only where a gradient is not finite",
}
RARE = [kernel for kernel, reason in NOT_HOT.items() if reason.startswith("only")]

VECTOR = re.compile(r"%[xyz]mm\d")
MOVE = re.compile(r"v?(mov|broadcast|pbroadcast)")
# A count may become a number, once for a short row.
SCALAR = re.compile(r"v?(add|sub|mul|div|sqrt|min|max|fn?m(add|sub)\d+|cvts[sd]2)s[sd]$")
KINDS = {
    "fma": re.compile(r"vfn?m(add|sub)"),
    "add": re.compile(r"v(add|sub)p"),
    "mul": re.compile(r"vmulp"),
    "div": re.compile(r"v(div|sqrt)p"),
    "move": MOVE,
    "other vector": re.compile("v|k"),
    "jump": re.compile("j"),
    "integer": re.compile(""),
}


class Instruction(NamedTuple):
    address: int
    name: str
    operands: str

    @property
    def target(self) -> int | None:
        """Where a direct jump goes."""
        match = re.match(r"([0-9a-f]+) ", self.operands) if self.name.startswith("j") else None
        return int(match[1], 16) if match else None


Body = list[Instruction]


# ---- Reading objects -----------------------------------------------------------------------------


def functions(path: Path) -> dict[str, Body]:
    """The instructions of each function of an object file."""
    command = ["objdump", "--disassemble", "--reloc", "--no-show-raw-insn", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, Body] = {}
    body: Body = []
    for line in text.splitlines():
        if match := re.match(r"[0-9a-f]+ <(.+)>:$", line):
            body = found.setdefault(match[1], [])
        elif match := re.match(r"\s+[0-9a-f]+: R_X86_64_\w+\s+(\S+)", line):
            # Of a call, the function: the instruction itself does not have its address yet.
            if body and body[-1].name.startswith("call"):
                body[-1] = body[-1]._replace(operands=match[1])
        elif match := re.match(r"\s+([0-9a-f]+):\s+(\S+)\s*(.*)", line):
            body.append(Instruction(int(match[1], 16), match[2], match[3]))
    return found


def demangled(symbols: list[str]) -> list[str]:
    """The functions' names as they are in the source, without parameters."""
    command = ["swift", "demangle", "--compact", "--simplified"]
    text = subprocess.run(
        command, input="\n".join(symbols), check=True, capture_output=True, text=True
    ).stdout
    around = r"^.* of |^merged |^specialized |\(.*$"
    return [
        re.sub(around, "", re.sub(r"closure #\d+ .*?in ", "", line)) for line in text.splitlines()
    ]


# ---- Loops ---------------------------------------------------------------------------------------


def successors(body: Body) -> list[list[int]]:
    """For each instruction, the indices of those that may come next."""
    index = {instruction.address: i for i, instruction in enumerate(body)}
    found = []
    for i, instruction in enumerate(body):
        ends = instruction.name in ("jmp", "ret", "ud2") or i + 1 == len(body)
        following = [] if ends else [i + 1]
        if instruction.target in index:
            following.append(index[instruction.target])
        found.append(following)
    return found


def components(nodes: set[int], edges: list[list[int]]) -> list[set[int]]:
    """The strongly connected components with a cycle (Kosaraju's algorithm)."""
    reverse: dict[int, list[int]] = {node: [] for node in nodes}
    for node in nodes:
        for other in edges[node]:
            if other in nodes:
                reverse[other].append(node)
    order: list[int] = []
    seen: set[int] = set()
    for root in nodes:
        if root in seen:
            continue
        seen.add(root)
        stack = [(root, iter(edges[root]))]
        while stack:
            node, rest = stack[-1]
            following = next((n for n in rest if n in nodes and n not in seen), None)
            if following is None:
                order.append(node)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(edges[following])))
    found = []
    assigned: set[int] = set()
    for root in reversed(order):
        if root in assigned:
            continue
        component = {root}
        pending = [root]
        while pending:
            for other in reverse[pending.pop()]:
                if other not in component and other not in assigned:
                    component.add(other)
                    pending.append(other)
        assigned |= component
        if len(component) > 1 or root in edges[root]:
            found.append(component)
    return found


def innermost_loops(body: Body) -> list[Body]:
    """The loops that contain no other loop."""
    edges = successors(body)
    pending = components(set(range(len(body))), edges)
    found = []
    while pending:
        loop = pending.pop()
        # Without its entry, a loop falls apart into the loops inside of it.
        entries = {n for i in range(len(body)) if i not in loop for n in edges[i] if n in loop}
        inner = components(loop - {min(entries, default=min(loop))}, edges)
        if inner:
            pending += inner
        else:
            found.append([body[i] for i in sorted(loop)])
    return sorted(found)


def faults(loop: Body, frame: re.Pattern[str], spills_allowed: float) -> list[str]:
    """What a hot loop must not do.

    To read from the stack what the loop does not write is no fault: that is a constant for which
    there was no register, and costs what any constant in memory does. Nor is a call that is only
    made where something is rare.
    """
    found = []
    spills = []
    for _, name, operands in loop:
        if name.startswith("call") and not any(rare in operands for rare in RARE):
            found.append(f"call {operands}")
        elif SCALAR.match(name):
            found.append(f"scalar arithmetic: {name} {operands}")
        elif MOVE.match(name) and VECTOR.match(operands) and frame.search(operands):
            spills.append(f"spill: {name} {operands}")
    return found + (spills if len(spills) > spills_allowed * len(loop) else [])


# ---- The table -----------------------------------------------------------------------------------


def row(*cells: object) -> str:
    module, kernel, *counts = map(str, cells)
    return f"{module:<14}{kernel:<34}" + "".join(f"{count:>13}" for count in counts)


def counts(loop: Body, frame: re.Pattern[str]) -> list[int]:
    kinds = Counter(
        next(kind for kind, pattern in KINDS.items() if pattern.match(instruction.name))
        for instruction in loop
    )
    on_stack = [
        bool(VECTOR.match(operands))
        for _, name, operands in loop
        if VECTOR.search(operands) and frame.search(operands)
    ]
    return [
        len(loop),
        *(kinds[kind] for kind in KINDS),
        len(on_stack) - sum(on_stack),
        sum(on_stack),
    ]


def check_module(folder: Path, isa: str, element: str) -> tuple[int, int]:
    """Print the loops of a module; how many there are, and how many have faults not allowed."""
    module, register = isa + element, REGISTERS[isa]
    # Not the folder's contents: objects of sources that are gone may still lie there.
    listed = (folder / "Swiftmax.product" / "Objects.LinkFileList").read_text()
    objects = [Path(path) for path in shlex.split(listed)]
    bodies = {
        f"{path.name}:{symbol}": body
        for path in sorted(objects)
        if path.parent.name == f"Kernels{module}.build"
        for symbol, body in functions(path).items()
    }
    kernels = demangled([key.partition(":")[2] for key in bodies])
    loops = wrong = 0
    for kernel, body in zip(kernels, bodies.values(), strict=True):
        # Where %rbp is not the frame's, it is a register like others.
        has_frame = any(i.name == "mov" and i.operands == "%rsp,%rbp" for i in body[:16])
        frame = re.compile(r"\(%r[sb]p" if has_frame else r"\(%rsp")
        for loop in innermost_loops(body):
            if not any(register in i.operands and not MOVE.match(i.name) for i in loop):
                continue
            loops += 1
            print(row(module, kernel, *counts(loop, frame)))
            found = faults(loop, frame, MORE_SPILLS.get(kernel, SPILLS)[isa])
            for fault in found:
                print(f"    {fault}")
            if found and kernel in NOT_HOT:
                print(f"    not hot: {NOT_HOT[kernel]}")
            elif found:
                wrong += 1
    return loops, wrong


def main(folder: Path) -> int:
    for tool in ("objdump", "swift"):
        if shutil.which(tool) is None:
            print(f"needs {tool}", file=sys.stderr)
            return 1
    if not (folder / "Swiftmax.product").exists():
        print(f"nothing is built in {folder}: run `make build`", file=sys.stderr)
        return 1
    print(
        row("kernels", "innermost loop of", "instructions", *KINDS, "stack loads", "stack stores")
    )
    wrong = 0
    for isa in REGISTERS:
        for element in ("Float32", "Float64"):
            loops, faulty = check_module(folder, isa, element)
            if loops == 0:
                print(f"{folder} has no kernels for {isa} {element}", file=sys.stderr)
                return 1
            wrong += faulty
    print(f"{wrong} hot loops with faults")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/swift/release")))
