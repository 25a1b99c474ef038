"""launch.pod: what it refuses, what it estimates, and a real compilation for four chips."""

import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import optax
import pytest
from absl import flags

from launch import compile_only, pod
from launch.lookup import load_experiment
from tests.core.problems import TASK
from trove_jax import core
from trove_jax.core.errors import TroveError, UsageError

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.pod", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def tiny_experiment(batch_size=16, seeds=2):
    """An experiment of three networks too small to be worth a chip."""
    examples = {
        "x": jax.ShapeDtypeStruct((64, 8), jnp.float32),
        "y": jax.ShapeDtypeStruct((64, 4), jnp.float32),
    }
    step = core.PodStep("points", TASK, optax.sgd(0.1), core.Data(examples), batch_size, seeds)
    return types.SimpleNamespace(__name__="experiments.tests.tiny", pod_step=lambda config: step)


def compile_tiny(topology, **options):
    return compile_only.compile_only(tiny_experiment(), None, topology, title="tiny", **options)


def test_without_a_cluster_one_line_says_what_to_do():
    found = run("--experiment=lottery_ticket", "--preset=smoke")
    assert found.returncode == 2
    assert "give --coordinator_address=HOST:PORT" in found.stderr.splitlines()[-1]
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, 2, 0), "--coordinator_address missing"),
        (("localhost:1", None, None), "--num_processes, --process_id missing"),
        (("localhost:1", 2, 2), "--process_id=2 is not below --num_processes=2"),
    ],
)
def test_half_an_address_is_refused(given, message):
    with pytest.raises(UsageError, match=message):
        pod.connect(*given, patience=1)


@pytest.mark.parametrize(
    ("error", "processes", "code"),
    [
        (ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer"), 2, 69),
        (ValueError("INTERNAL: Connection reset"), 2, 69),
        (ValueError("UNKNOWN: of a single process"), 1, None),
        (ValueError("batch_size=0 is not positive"), 2, None),
        (TroveError("no room on the disk"), 2, 1),
        (TroveError("no room on the disk"), 1, None),
    ],
)
def test_a_lost_process_is_told_from_other_errors(
    monkeypatch, capsys, flags_of_pod, error, processes, code
):
    """With others a process leaves at once, by `os._exit`; alone it raises what it met."""

    def fail(overrides):
        raise error

    monkeypatch.setattr(pod.run, "main", fail)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    monkeypatch.setattr(pod.os, "_exit", _Left.with_code)
    if code is None:
        with pytest.raises(type(error), match=str(error)):
            pod.main([])
        return
    with pytest.raises(_Left) as left:
        pod.main([])
    assert left.value.args == (code,)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert str(error) in lines[0]
    assert ("the same command" in lines[0]) == (code == pod.ProcessLost.exit_code)


class _Left(BaseException):
    @classmethod
    def with_code(cls, code):
        raise cls(code)


@pytest.fixture
def flags_of_pod():
    """Flags as if typed: nothing is joined."""
    flags.FLAGS(["pod", "--dry_run"])
    yield
    flags.FLAGS.unparse_flags()


@pytest.mark.parametrize(
    ("backend", "processes", "kept"), [("cpu", 2, False), ("cpu", 1, True), ("tpu", 2, True)]
)
def test_processes_on_cpus_read_no_programs_from_a_cache(monkeypatch, backend, processes, kept):
    """A program with collectives that jaxlib 0.10 reads back runs them in any order."""
    before = jax.config.jax_enable_compilation_cache
    monkeypatch.setattr(pod, "_leave_last_words", lambda: None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: None)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    try:
        pod.connect("localhost:1", processes, 0, patience=1)
        assert jax.config.jax_enable_compilation_cache == (before and kept)
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def test_a_roofline_is_plain_division():
    """4 all-reduces of 1 MB over 5 chips send 2 * 0.8 MB each; a small one takes a microsecond."""
    chip = compile_only.Chip(flops=1e12, memory=1e9, memory_bandwidth=1e10, link_bandwidth=1e9)
    reductions = [
        core.Collective("all-reduce", 1_000_000, 5, 4, True),
        core.Collective("all-gather", 8, 2, 3, True),
        core.Collective("all-reduce", 10**9, 1, 1, True),
    ]
    found = compile_only.roofline(chip, flops=5e9, accessed=4e7, step_collectives=reductions)
    assert found.compute == pytest.approx(5e-3)
    assert found.memory == pytest.approx(4e-3)
    assert found.links == pytest.approx(6.4e-3 + 3e-6)
    assert found.limit == "links"
    assert found.overlapped == found.links
    assert found.sequential == pytest.approx(15.403e-3)


def test_an_experiment_without_a_described_step_says_so():
    experiment = load_experiment("gradient_noise")
    with pytest.raises(UsageError, match=r"gradient_noise .* no pod_step\(config\)"):
        compile_only.compile_only(experiment, None, "v5e:2x2", title="")


def abstract_variables(step):
    return jax.eval_shape(step.task.init, jax.random.key(0))["params"]


def test_the_paper_presets_are_described_without_data():
    """The parameters of ResNet-50 are as many as those of the network of He et al. (2016)."""
    experiment = load_experiment("lottery_ticket")
    config = experiment.get_config("paper")
    config.network = "resnet50"
    step = experiment.pod_step(config)
    assert (step.batch_size, step.seeds, step.streams) == (1024, 5, True)
    assert step.data.examples["image"].shape[1:] == (256, 256, 3)
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract_variables(step))) == 25_557_032

    experiment = load_experiment("poincare_resnet")
    config = experiment.get_config("paper")
    step = experiment.pod_step(config)
    assert (step.batch_size, step.seeds, step.streams) == (128, 10, False)
    assert step.data.examples["image"].shape == (50_000, 32, 32, 3)
    assert "20 layers on cifar10" in step.name


def test_memory_that_does_not_suffice_is_one_line():
    message = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: the total memory required (48.00G) exceeds "
        "available HBM (15.75G). HLO module: jit_f.\nSee a page."
    )
    found = str(compile_only._too_large(RuntimeError(message), "v5e:2x2"))
    assert "has 15.75GiB for programs and the step needs 48.00GiB" in found
    assert "\n" not in found
    memory = compile_only.Memory(arguments=2**34, results=2**20, temporary=2**20, code=0)
    with pytest.raises(TroveError, match=r"has 16 GiB for programs and the step needs 16 GiB"):
        compile_only.check_memory(memory, compile_only.CHIPS["v5e"], "v5e:2x2")
    other = str(compile_only._too_large(RuntimeError("INTERNAL: broken\nmore"), "v5e:2x2"))
    assert other == "the compiler refuses the step for v5e:2x2: INTERNAL: broken"


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v5e:3x3", "not divisible"),
        ("v5x:2x2", "no chip is called 'v5x'; did you mean 'v5"),
        ("v5e", "does not match"),
    ],
)
def test_an_unknown_topology_is_refused_in_one_line(topology, message):
    pytest.importorskip("libtpu", reason="needs the extra pod-check")
    with pytest.raises(UsageError, match=message) as refusal:
        compile_tiny(topology)
    assert "\n" not in str(refusal.value)


def test_a_mesh_larger_than_the_pod_is_refused():
    pytest.importorskip("libtpu", reason="needs the extra pod-check")
    with pytest.raises(UsageError, match="asks for 8 chips, of 4"):
        compile_tiny("v5e:2x2", axes={"seed": 8})


def test_a_step_compiles_for_four_chips():
    pytest.importorskip("libtpu", reason="needs the extra pod-check")
    report = compile_tiny("v5e:2x2", axes={"seed": 2, "data": 2})
    lines = report.splitlines()
    assert lines[0] == "tiny: points, 2 networks, batch 16"
    assert "4 of 4 chips, --mesh=seed:2,data:2" in lines[1]
    (reduced,) = [line.split() for line in lines if "all-reduce" in line]
    assert reduced[1] == "2"  # chips that a gradient is summed over
    assert "FLOPs" in report
    assert "limited by" in report
