"""What a compiled program moves between devices, read from its text.

Loops decide how often an operation runs. A loop with a fixed count multiplies what is in it; the
loop over the steps of a chunk is the one whose bound is traced, and counts once: what is in it
belongs to every step, what is around it to every chunk.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)


class Collective(NamedTuple):
    """One collective operation of a compiled program.

    Attributes:
      kind: as in XLA, such as `all-reduce`.
      bytes: of its result on one device; for a `reduce-scatter` of its operand.
      group: how many devices take part in each group.
      times: how often it runs, in a step or in a chunk.
      in_step: whether it runs in every step; otherwise in every chunk of steps.
    """

    kind: str
    bytes: int
    group: int
    times: int
    in_step: bool

    @property
    def sent(self) -> float:
        """Bytes that a device sends in one execution along a ring, the least that is possible.

        2 n (g - 1) / g for an all-reduce of n bytes among g devices, n for a permutation or a
        broadcast, n (g - 1) / g for all others.
        """
        if self.kind in ("collective-permute", "collective-broadcast"):
            return float(self.bytes)
        share = self.bytes * (self.group - 1) / self.group
        return 2 * share if self.kind == "all-reduce" else share


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """The structure of a compiled chunk of training steps.

    Attributes:
      collectives: all of them.
      rounds: how often the loop over steps is entered in a chunk; 1, or the number of networks
        that a device trains one after the other.
      loops: counts of the loops inside a step; 0 for a loop whose end is found while it runs.
    """

    collectives: tuple[Collective, ...]
    rounds: int
    loops: tuple[int, ...]


class _Instruction(NamedTuple):
    type: str
    opcode: str
    rest: str


def read_program(text: str) -> CompiledProgram:
    """Reads the text of a compiled program.

    Args:
      text: of the optimised program, `jax.stages.Compiled.as_text()`, from any platform.

    Returns:
      Its collectives, and the loops around and inside the training step.

    Raises:
      ValueError: `text` has no entry computation.

    Example:
      >>> program = read_program('''
      ... ENTRY %main (x: f32[8]) -> f32[8] {
      ...   %x = f32[8]{0} parameter(0)
      ...   ROOT %sum = f32[8]{0} all-reduce(%x), replica_groups=[1,4]<=[4], to_apply=%add
      ... }''')
      >>> program.collectives
      (Collective(kind='all-reduce', bytes=32, group=4, times=1, in_step=False),)
    """
    computations, entry = _computations(text)
    if entry is None:
        raise ValueError(f"text has no ENTRY computation in its {len(text)} characters")
    partitions = re.search(r"num_partitions=(\d+)", text)
    devices = int(partitions.group(1)) if partitions else 1
    found: list[Collective] = []
    rounds, loops = [1], []

    def visit(name: str, times: int, in_step: bool) -> None:
        for instruction in computations.get(name, ()):
            kind = _kind(instruction, name)
            if kind is not None:
                size, group = _payload(instruction, kind, devices)
                found.append(Collective(kind, size, group, times, in_step))
            if instruction.opcode == "while":
                count = _trip_count(instruction, computations)
                if in_step:
                    loops.append(count or 0)
                elif count is None:
                    rounds[0] = times
                visit(_called(instruction, "body"), times * (count or 1), in_step or count is None)
            elif not instruction.opcode.endswith(("-done", "-update")):
                for callee in _callees(instruction):
                    visit(callee, times, in_step)

    visit(entry, 1, False)
    return CompiledProgram(tuple(found), rounds[0], tuple(loops))


def _computations(text: str) -> tuple[dict[str, list[_Instruction]], str | None]:
    computations: dict[str, list[_Instruction]] = {}
    entry, current = None, None
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{\s*$", line)
        if head:
            current = computations.setdefault(head.group(2), [])
            entry = head.group(2) if head.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif current is not None:
            match = re.match(r"\s+(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][\w-]*)\((.*)$", line)
            if match:
                current.append(_Instruction(*match.groups()))
    return computations, entry


def _kind(instruction: _Instruction, computation: str) -> str | None:
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    # A TPU writes a reduce-scatter as a fused all-reduce of which each device keeps its part.
    return "reduce-scatter" if computation.startswith("all-reduce-scatter") else kind


def _payload(instruction: _Instruction, kind: str, devices: int) -> tuple[int, int]:
    """Bytes and group size of a collective."""
    size, group = sum(_shape_bytes(instruction.type)), _group(instruction.rest, devices)
    started = instruction.opcode.endswith("-start")
    if kind == "all-gather" and started:  # its type holds the operands beside the results
        size = size * group / (group + 1)
    elif kind == "collective-permute" and started:
        size = size / 2
    elif kind == "reduce-scatter" and instruction.opcode.startswith("reduce-scatter"):
        size = size * group
    return round(size), group


def _shape_bytes(type_text: str) -> Iterator[float]:
    for dtype, dims in re.findall(r"\b([a-z]+\d*\w*)\[([\d,]*)\]", type_text):
        if dtype == "u32" and not dims:
            continue  # the handle of an asynchronous operation
        digits = re.search(r"\d+", dtype)
        bits = int(digits.group()) if digits else 8  # pred
        yield math.prod(int(n) for n in dims.split(",") if n) * bits / 8


def _group(rest: str, devices: int) -> int:
    """Size of a group, from any of the three ways in which XLA writes groups."""
    if re.search(r"source_target_pairs=", rest):
        return 2
    text = rest.partition("replica_groups=")[2]
    if iota := re.match(r"\[(\d+),(\d+)\]", text):
        return int(iota.group(2))
    if mesh := re.match(r"mesh\[(.*?)\][^{]*\{(.*?)\}", text):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh.group(1)))
        parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh.group(2))
        return math.prod(int(part or sizes[name]) for name, part in parts)
    if first := re.match(r"\{\{([\d, ]*)\}", text):
        return len(first.group(1).split(","))
    return devices


def _called(instruction: _Instruction, role: str) -> str:
    match = re.search(rf"\b{role}=%?([\w.-]+)", instruction.rest)
    return match.group(1) if match else ""


def _callees(instruction: _Instruction) -> list[str]:
    rest = instruction.rest
    names = re.findall(r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.-]+)", rest)
    for group in re.findall(r"\b(?:branch_computations|called_computations)=\{(.*?)\}", rest):
        names += re.findall(r"%?([\w.-]+)", group)
    return names


def _trip_count(
    instruction: _Instruction, computations: dict[str, list[_Instruction]]
) -> int | None:
    """How often a loop runs; None where that is known only when it runs."""
    known = re.search(r'known_trip_count\\?":\{\\?"n\\?":\\?"(\d+)', instruction.rest)
    if known:
        return int(known.group(1))
    bounds = [
        re.match(r"\d+", i.rest)
        for i in computations.get(_called(instruction, "condition"), ())
        if i.opcode == "constant" and i.type.startswith(("s32[]", "s64[]", "u32[]"))
    ]
    bounds = [int(bound.group()) for bound in bounds if bound]
    return bounds[0] if len(bounds) == 1 else None
