"""What README shows works, and what it lists is complete."""

import pathlib
import re

import jax
import numpy as np
import pytest

from launch.lookup import experiment_names
from trove_jax.transforms.masking import is_kernel, named_leaves

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()


def test_the_example_runs_and_keeps_its_promise():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope = {}
    with jax.numpy_dtype_promotion("standard"):  # optax's own code mixes dtypes
        exec(code, scope)
    params = scope["state"].variables["params"]
    kernels = [leaf for path, leaf in named_leaves(params).items() if is_kernel(path, leaf[0])]
    zeros = [float((kernel == 0).mean()) for kernel in kernels]
    assert len(kernels) > 10
    assert 0.79 < np.average(zeros, weights=[kernel.size for kernel in kernels]) < 0.81
    assert scope["metrics"]["guide_similarity"].shape == (5,)


def test_there_are_two_commands_and_they_make_their_own_environment():
    lines = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert len(lines) == 2
    assert "--preset=laptop" in lines[0]
    assert "pytest" in lines[1]


def test_the_catalogue_has_a_row_for_each_paper():
    numbers = [int(n) for n in re.findall(r"^\| (\d\d) \|", README, re.MULTILINE)]
    assert numbers == list(range(1, 65))


@pytest.mark.parametrize("name", sorted(experiment_names()))
def test_every_experiment_has_its_command_in_the_catalogue(name):
    assert f"--experiment={name}" in README
