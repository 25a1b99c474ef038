"""Every experiment runs in its smoke preset, and has the parts that all experiments have."""

import ast
import pathlib

import pytest

from launch.lookup import PRESETS, experiment_names, load_experiment, resolve_config
from trove_jax import core, data, evidence

EXPERIMENTS = sorted(experiment_names())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_smoke_decides_every_claim(name):
    experiment = load_experiment(name)
    config = resolve_config(experiment, "smoke", [])
    context = core.Context()
    found = experiment.run(config, context)
    verdicts = evidence.judge(
        [c for c in experiment.CLAIMS if c.id not in found.not_tested], found.arms
    )
    assert {v.verdict for v in verdicts} <= {"supported", "contradicted", "inconclusive"}
    assert all(
        len(values) == config.seeds for arm in found.arms.values() for values in arm.values()
    )
    planned = sum(stage.total_steps * stage.seeds for stage in experiment.plan(config))
    assert context.steps_done == pytest.approx(planned, rel=0.2)
    assert found.data


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_presets_are_complete(name):
    experiment = load_experiment(name)
    for preset in PRESETS:
        config = resolve_config(experiment, preset, [])
        assert config.seeds >= (2 if preset == "smoke" else 5)
        assert experiment.plan(config)
        for data_set in experiment.data_sets(config):
            assert data.describe(data_set)
    assert len({claim.id for claim in experiment.CLAIMS}) == len(experiment.CLAIMS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_head_says_the_command(name):
    path = pathlib.Path(load_experiment(name).__file__)
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert f"--experiment={name}" in docstring


def test_numbers_are_unique():
    numbers = [load_experiment(name).SYSTEM.number for name in EXPERIMENTS]
    assert len(set(numbers)) == len(numbers)
