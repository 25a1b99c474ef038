"""Compiles an experiment's training step for a pod that is not here, and says what it will cost.

The TPU compiler (libtpu, extra `pod-check`) needs no TPU. What it built is read back: collectives,
operations and bytes, and the memory of a chip. The time of a step is then estimated by a roofline.
"""

import collections
import dataclasses
import importlib.util
import os
import re
import time
from typing import Any, NamedTuple

from launch.lookup import nearest
from trove_jax.core.errors import TroveError, UsageError

# A collective cannot be shorter than a message to a neighbour.
_HOP_SECONDS = 1e-6


class Chip(NamedTuple):
    """What a chip can do at most.

    Attributes:
      flops: bfloat16 operations per second; float32 matrices are multiplied in bfloat16 by default.
      memory: bytes of HBM.
      memory_bandwidth: bytes per second from and to HBM.
      link_bandwidth: bytes per second that the chip can send to its neighbours, all links together.
    """

    flops: float
    memory: float
    memory_bandwidth: float
    link_bandwidth: float


# Source: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, read 2026-11-28. The page gives the links
# of a chip in both directions together, of which half can be sent; for v4 it gives only the
# all-reduce bandwidth of a pod, 1.1 PB/s, here divided by its 4,096 chips.
CHIPS = {
    "v4": Chip(275e12, 32 * 2**30, 1200e9, 268e9),
    "v5e": Chip(197e12, 16 * 2**30, 819e9, 200e9),
    "v5p": Chip(459e12, 95 * 2**30, 2765e9, 600e9),
    "v6e": Chip(918e12, 32 * 2**30, 1638e9, 400e9),
}


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The least time of a step on one chip, in seconds, by what limits it.

    Attributes:
      compute: all operations at the peak rate.
      memory: all bytes at the bandwidth of HBM; more than is needed, since the compiler counts
        what stays in the chip's own memory too.
      links: what collectives send at the bandwidth of all links, or a microsecond for each.
    """

    compute: float
    memory: float
    links: float

    @property
    def limit(self) -> str:
        """The largest of the three."""
        return max(("compute", "memory", "links"), key=lambda name: getattr(self, name))

    @property
    def overlapped(self) -> float:
        """Seconds of a step where all three happen at once."""
        return max(self.compute, self.memory, self.links)

    @property
    def sequential(self) -> float:
        """Seconds of a step where they happen one after the other."""
        return self.compute + self.memory + self.links


def roofline(chip: Chip, *, flops: float, accessed: float, step_collectives: Any) -> Roofline:
    """Estimates the time of a step.

    Args:
      chip: what runs it.
      flops: operations of a step on one chip.
      accessed: bytes that they read and write.
      step_collectives: `core.Collective`s of a step.

    Returns:
      Seconds for each resource.
    """
    links = sum(
        c.times * max(c.sent / chip.link_bandwidth, _HOP_SECONDS)
        for c in step_collectives
        if c.group > 1
    )
    return Roofline(flops / chip.flops, accessed / chip.memory_bandwidth, links)


def pod_devices(topology: str) -> tuple[Chip, list[Any]]:
    """The devices of a topology, one per chip, for compiling only.

    Args:
      topology: as libtpu names it, such as `v5e:16x16`.

    Returns:
      What its chips can do, and the devices.

    Raises:
      UsageError: libtpu is missing or knows no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UsageError("--compile_only needs the TPU compiler: pip install trove-jax[pod-check]")
    _quiet_compiler()
    from jax.errors import JaxRuntimeError
    from jax.experimental import topologies

    kind = topology.partition(":")[0]
    if kind not in CHIPS:
        raise UsageError(
            f"--compile_only={topology}: no chip is called {kind!r}{nearest(kind, CHIPS)}"
        )
    # A program for v4 sees its two cores as one device, which this compiler does only if told to.
    options = {"chip_config_name": "megacore"} if kind == "v4" else {}
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **options
        ).devices
    except JaxRuntimeError as error:
        reason = str(error).partition(": ")[2].splitlines()[0]
        raise UsageError(f"--compile_only={topology}: {reason}") from error
    return CHIPS[kind], found


def compile_only(
    experiment: Any, config: Any, topology: str, *, title: str, axes: dict[str, int] | None = None
) -> str:
    """Compiles the step of an experiment for a pod.

    Args:
      experiment: a module with `pod_step(config) -> core.PodStep`.
      config: its configuration.
      topology: as `pod_devices`.
      title: first line of the report.
      axes: sizes of the mesh's axes; default: `core.choose_pod_axes`.

    Returns:
      A report for a person.

    Raises:
      UsageError: the experiment has no `pod_step`, or the topology or the axes do not fit.
      TroveError: the memory of a chip does not suffice.
    """
    if not hasattr(experiment, "pod_step"):
        name = experiment.__name__.rpartition(".")[2]
        raise UsageError(
            f"{name} does not say what it trains before there are data: it has no pod_step(config)"
        )
    chip, devices = pod_devices(topology)
    import jax

    from trove_jax import core

    step = experiment.pod_step(config)
    try:
        sizes = axes or core.choose_pod_axes(step, len(devices))
        mesh = _mesh(sizes, devices)
        began = time.perf_counter()
        lowered = core.lower_step(step, mesh, platforms=("tpu",))
    except ValueError as error:
        raise UsageError(f"--compile_only={topology}: {error}") from error
    except NotImplementedError as error:
        raise TroveError(f"the step cannot be divided on --mesh={sizes}: {error}") from error
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        raise _too_large(error, topology) from error
    seconds = time.perf_counter() - began
    program = core.read_program(compiled.as_text())
    memory = Memory.of(compiled)
    check_memory(memory, chip, topology)
    cost = compiled.cost_analysis()
    # The compiler counts the inside of every loop once; what it counted of a step is repeated for
    # each network that a chip trains after another.
    flops, accessed = (program.rounds * cost[name] for name in ("flops", "bytes accessed"))
    time_of_step = roofline(
        chip,
        flops=flops,
        accessed=accessed,
        step_collectives=[c for c in program.collectives if c.in_step],
    )
    mesh_text = ",".join(f"{name}:{size}" for name, size in sizes.items())
    return "\n".join(
        [
            f"{title}: {step.name}, {step.seeds} networks, batch {step.batch_size or 'all'}",
            f"{topology}: {mesh.size} of {len(devices)} chips, --mesh={mesh_text}, compiled in "
            f"{seconds:.0f} s",
            *_collective_lines(program),
            f"per chip and step: {flops:.3g} FLOPs, {_bytes(accessed)} read and written, "
            "what stays in fast memory too" + _loop_note(program.loops),
            f"memory per chip: {_bytes(memory.total)} of {_bytes(chip.memory)} ({memory})",
            _time_line(time_of_step),
        ]
    )


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one chip that a compiled program needs.

    Attributes:
      arguments: state, data and batches.
      results: the records; the new state takes the place of the old one.
      temporary: activations, gradients and copies.
      code: the program itself.
    """

    arguments: int
    results: int
    temporary: int
    code: int

    @classmethod
    def of(cls, compiled: Any) -> "Memory":
        """What the compiler says of a program."""
        found = compiled.memory_analysis()
        return cls(
            found.argument_size_in_bytes,
            found.output_size_in_bytes - found.alias_size_in_bytes,
            found.temp_size_in_bytes,
            found.generated_code_size_in_bytes,
        )

    @property
    def total(self) -> int:
        """All of them together."""
        return self.arguments + self.results + self.temporary + self.code

    def __str__(self) -> str:
        return ", ".join(
            f"{field.name} {_bytes(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
        )


def check_memory(memory: Memory, chip: Chip, topology: str) -> None:
    """Refuses a program that the compiler accepts and a chip has no room for.

    Raises:
      TroveError: the memory of a chip does not suffice.
    """
    if memory.total > chip.memory:
        raise TroveError(_does_not_fit(topology, _bytes(memory.total), _bytes(chip.memory)))


def _quiet_compiler() -> None:
    """Tells libtpu, before it is loaded, that this machine has no TPU and never will."""
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_MIN_LOG_LEVEL": "3",
        # Two processes that only compile do not get in each other's way.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }.items():
        os.environ.setdefault(name, value)


def _mesh(sizes, devices):
    import math

    import jax

    wanted = math.prod(sizes.values())
    if wanted > len(devices):
        raise ValueError(f"mesh {sizes} asks for {wanted} chips, of {len(devices)}")
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(jax.sharding.AxisType.Auto,) * len(sizes),
        devices=devices[:wanted],
    )


def _too_large(error, topology) -> TroveError:
    text = str(error)
    sizes = re.search(r"\(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)", text)
    if sizes:
        return TroveError(_does_not_fit(topology, *(f"{size}iB" for size in sizes.groups())))
    return TroveError(f"the compiler refuses the step for {topology}: {text.splitlines()[0]}")


def _does_not_fit(topology, needed, available) -> str:
    return (
        f"a chip of {topology} has {available} for programs and the step needs {needed}; take more "
        "chips, a longer data axis (--mesh=), fewer seeds or a smaller batch"
    )


def _collective_lines(program) -> list[str]:
    groups = collections.defaultdict(list)
    for c in program.collectives:
        if c.group > 1:
            groups[not c.in_step, c.kind, c.group].append(c)
    if not groups:
        return ["collectives: none"]
    lines = ["collectives           chips  count  result/chip    sent/chip"]
    for (outside, kind, chips), found in sorted(groups.items()):
        count = sum(c.times for c in found)
        result, sent = (sum(c.times * getattr(c, x) for c in found) for x in ("bytes", "sent"))
        where = "  (once per chunk of steps)" if outside else ""
        lines.append(
            f"  {kind:<20}{chips:>5}{count:>7}{_bytes(result):>13}{_bytes(sent):>13}{where}"
        )
    return lines


def _loop_note(loops) -> str:
    repeated = [count for count in loops if count != 1]
    if not repeated:
        return ""
    counts = ", ".join(str(count or "an unknown number of") for count in repeated)
    return f" (loops inside the step, of {counts} rounds, are counted as one round)"


def _time_line(estimate: Roofline) -> str:
    parts = ", ".join(
        f"{name} {1e3 * getattr(estimate, name):.3g} ms" for name in ("compute", "memory", "links")
    )
    return (
        f"step: {1e3 * estimate.overlapped:.3g} ms if all overlaps, limited by {estimate.limit}; "
        f"{1e3 * estimate.sequential:.3g} ms if nothing does ({parts})"
    )


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.3g} {unit}" if size < 1000 else f"{size:.0f} {unit}"
        size /= 1024
    raise AssertionError
