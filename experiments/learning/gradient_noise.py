"""Gradient noise: does it train a very deep network from a poor, even an all-zero, start?

    python -m launch.run --experiment=gradient_noise --preset=laptop

A perceptron of 20 rectified layers is trained by plain SGD from three starts (all zero, one small
normal law for all layers, He's law), with and without gradient noise of decaying variance; a
network of 5 layers is the control. Every arm runs at each learning rate of the grid and is judged
at the one that validation images choose. Left out of the paper's experiments: the memory network
on bAbI, the Neural GPU and the Neural Programmer.

preset   data    networks                              expected                      time
smoke    digits  4 and 2 layers                        runs at all                   seconds
laptop   digits  20 and 5 layers, 5 seeds x 2 rates    noise: chance to above 90 %   ~12 min CPU
paper    MNIST   20 and 5 layers, 20 runs x 2 rates    89.9 to 96.7 % at best        ~1 h on one
                                                       (small normal start)          accelerator
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

import trove_jax
from trove_jax.evidence import Claim, Evidence, Figure, System

SYSTEM = System(
    number=20,
    title="Gradient noise",
    paper="Neelakantan et al., Adding Gradient Noise Improves Learning for Very Deep Networks, "
    "2015, arXiv 1511.06807",
    url="https://arxiv.org/abs/1511.06807",
)

_claim = functools.partial(
    Claim,
    metric="accuracy",
    unit="points",
    setting="digits instead of MNIST, 5 runs at the better of two learning rates",
)

CLAIMS = (
    _claim(
        id="C1-simple",
        statement="From a small normal start, gradient noise makes 20 layers at least 20 points "
        "more accurate.",
        treatment="simple_noise",
        baseline="simple",
        margin=20.0,
        paper="89.9 (mean 43.1) to 96.7 (52.7) %",
    ),
    _claim(
        id="C2-zero",
        statement="From an all-zero start, gradient noise makes 20 layers at least 20 points more "
        "accurate.",
        treatment="zero_noise",
        baseline="zero",
        margin=20.0,
        paper="11.4 (mean 10.1) to 94.5 (49.7) %",
        setting="digits instead of MNIST, 5 runs at the better of two learning rates, variance "
        "0.03 instead of 0.01 so that 20,000 steps suffice",
    ),
    _claim(
        id="C3-good",
        statement="From a good start, gradient noise changes the accuracy of 20 layers by less "
        "than 6 points.",
        treatment="good_noise",
        baseline="good",
        kind="equality",
        margin=6.0,
        paper="about 97.4 (mean 92) % with and without",
    ),
    _claim(
        id="C4-shallow",
        statement="With 5 layers, gradient noise changes the accuracy by less than 2 points.",
        treatment="shallow_noise",
        baseline="shallow",
        kind="equality",
        margin=2.0,
        paper="no help with 5 layers (no number printed)",
    ),
)

ARMS = (
    *("zero", "zero_noise", "simple", "simple_noise"),
    *("good", "good_noise", "shallow", "shallow_noise"),
)


def get_config(preset: str) -> ml_collections.ConfigDict:
    """The settings of a preset."""
    changes = {"smoke": _SMOKE, "laptop": {}, "paper": _PAPER}[preset]
    return ml_collections.ConfigDict(_settings(**changes))


def _settings(**changes: Any) -> dict[str, Any]:
    return {
        "seeds": 5,
        "data": "digits",
        "depth": 20,
        "shallow_depth": 5,
        "width": 50,
        "stddev": 0.1,
        "good_start": "he",
        "eta": 0.01,
        "zero_eta": 0.03,
        "gamma": 0.55,
        "clip": 10.0,
        "learning_rates": (0.1, 0.01),
        "batch_size": 32,
        "steps": 20_000,
        "evaluate_at": (0.1, 0.25, 0.5, 0.8, 0.85, 0.9, 0.95, 1.0),
        "averaged": 5,
        "validation": 0.15,
        **changes,
    }


_SMOKE = {
    "seeds": 2,
    "depth": 4,
    "shallow_depth": 2,
    "width": 12,
    "steps": 30,
    "evaluate_at": (0.5, 1.0),
    "averaged": 1,
}
_PAPER = {
    "seeds": 20,
    "data": "mnist",
    "zero_eta": 0.01,
    "steps": 100_000,
    "evaluate_at": (0.1, 0.25, 0.5, 0.75, 0.96, 0.97, 0.98, 0.99, 1.0),
    "validation": 0.1,
}


TRACED = ("learning_rates", "eta", "zero_eta", "gamma", "clip")
"""Keys whose numbers are arguments of the compiled programs: `run_points` takes several at once."""


def data_sets(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Names of the data sets that a configuration reads."""
    return (config.data,)


def plan(config: ml_collections.ConfigDict) -> list[trove_jax.core.StagePlan]:
    """The training runs that a configuration asks for."""
    return [
        trove_jax.core.plan_stage(
            group.name,
            _task(config, group.depth, "good"),
            # All of them, so that a number which one cannot take is refused here.
            [group.make_tx(**lane.values) for lane in _lanes([config], group)][-1],
            runs=1,
            seeds=config.seeds * len(config.learning_rates) * len(group.arms),
            steps=config.steps,
        )
        for group in _groups(config)
    ]


def run(config: ml_collections.ConfigDict, context: Any) -> Evidence:
    """Trains all arms at all learning rates and gathers what the claims compare."""
    return run_points([config], context)[0]


def run_points(configs: Sequence[ml_collections.ConfigDict], context: Any) -> list[Evidence]:
    """Runs configurations that differ in the numbers of `TRACED` alone, together."""
    config = configs[0]
    if len(config.evaluate_at) < config.averaged or config.evaluate_at[-1] != 1.0:
        raise trove_jax.core.UsageError(
            f"evaluate_at={config.evaluate_at} must end with 1.0 and have at least "
            f"averaged={config.averaged} entries"
        )
    inputs = trove_jax.data.load_inputs(config.data, data_dir=context.data_dir)
    train, validation = trove_jax.data.holdout(
        inputs.train.examples, fraction=config.validation, seed=0
    )
    measured: list[dict[str, dict[str, np.ndarray]]] = [{} for _ in configs]
    for group in _groups(config):
        found = _train_group(
            configs,
            context,
            group,
            prepare=inputs.prepare,
            train=trove_jax.core.Data(train),
            parts={"validation": trove_jax.core.Data(validation), "test": inputs.test},
        )
        for arms, new in zip(measured, found, strict=True):
            arms |= new
    return [
        _evidence(config, arms, inputs.provenance)
        for config, arms in zip(configs, measured, strict=True)
    ]


def _evidence(config, measured, provenance) -> Evidence:
    chosen = {arm: _choose(config, measured[arm]) for arm in ARMS}
    arms = {
        arm: {name: [float(x) for x in values] for name, values in _final(config, found).items()}
        for arm, found in chosen.items()
    }
    steps = _evaluation_steps(config)
    return Evidence(
        arms=arms,
        figures=_figures(config, chosen, steps),
        data=[{**provenance, "validation": f"{config.validation} of the training images"}],
        notes=[*_rate_notes(config, measured), _walk_note(config, chosen)],
        curves={
            "steps": steps,
            **{f"accuracy_{arm}": found["test"] for arm, found in chosen.items()},
            **{f"weight_std_{arm}": found["weight_std"] for arm, found in chosen.items()},
        },
    )


class _Arm(NamedTuple):
    name: str
    start: str
    eta: str | None = None  # the key of its variance; None: without noise


class _Group(NamedTuple):
    """Arms that one compiled program trains; without noise in it, nothing is drawn."""

    name: str
    depth: int
    make_tx: Callable[..., optax.GradientTransformation]
    arms: tuple[_Arm, ...]


class _Lane(NamedTuple):
    arm: _Arm
    values: dict[str, float]


def _groups(config) -> list[_Group]:
    starts = ("zero", "simple", "good")
    plain = tuple(_Arm(start, start) for start in starts)
    noise = tuple(
        _Arm(f"{start}_noise", start, "zero_eta" if start == "zero" else "eta") for start in starts
    )
    shallow = (_Arm("shallow", "simple"), _Arm("shallow_noise", "simple", "eta"))
    return [
        _Group("plain", config.depth, _plain, plain),
        _Group("noise", config.depth, _noisy, noise),
        _Group("shallow", config.shallow_depth, _noisy, shallow),
    ]


def _lanes(configs, group) -> list[_Lane]:
    """What is trained for each seed: configuration by configuration, arm by arm, rate by rate."""
    return [
        _Lane(arm, _values(config, group, arm, rate))
        for config in configs
        for arm in group.arms
        for rate in config.learning_rates
    ]


def _values(config, group, arm, rate) -> dict[str, float]:
    values = {"learning_rate": rate, "clip": config.clip}
    if group.make_tx is _noisy:
        values |= {"eta": config[arm.eta] if arm.eta else 0.0, "gamma": config.gamma}
    return values


def _train_group(configs, context, group, *, prepare, train, parts):
    """Trains all arms, learning rates and seeds of one program together, of all configurations.

    Returns, for each configuration, arm -> measure -> `[rates, s, evaluations]`.
    """
    core, config = trove_jax.core, configs[0]
    lanes, rates = _lanes(configs, group), len(config.learning_rates)
    # One seed has its start, its data order and its noise in all arms and at all rates.
    keys = core.seed_keys(config.seeds)
    begun = {
        arm.start: core.init_states(
            _task(config, group.depth, arm.start), optax.identity(), keys
        ).variables
        for arm in group.arms
    }
    task = _task(config, group.depth, "good", prepare)
    grid = trove_jax.search.grid_lanes(
        task,
        group.make_tx,
        keys,
        {name: [lane.values[name] for lane in lanes] for name in lanes[0].values},
        variables=jax.tree.map(
            lambda *leaves: jnp.concatenate(leaves), *[begun[lane.arm.start] for lane in lanes]
        ),
    )
    state, per_arm = grid.start, rates * config.seeds
    found: dict[str, list[Any]] = {"train": [], "weight_std": [], **{part: [] for part in parts}}
    for end in _evaluation_steps(config):
        began = int(state.step)
        state, history = context.train_seeds(
            f"{group.name}/{end:06d}",
            grid.task,
            grid.tx,
            train,
            grid.keys,
            steps=end,
            start=state,
            batch_size=config.batch_size,
            stop_at_nonfinite=False,
        )
        recent = history.metrics["accuracy"][:, -max(1, (end - began) // 10) :]
        found["train"].append(100.0 * recent.mean(axis=1))
        found["weight_std"].append(np.asarray(_weight_std(state.variables["params"])))
        for part, data in parts.items():
            # By arm, so that all groups of a depth share one program.
            accuracy = [
                core.evaluate_seeds(task, _slice(state.variables, first, per_arm), data)["accuracy"]
                for first in range(0, len(lanes) * config.seeds, per_arm)
            ]
            # A network whose loss was not finite once classifies nothing.
            found[part].append(100.0 * np.nan_to_num(np.concatenate(accuracy)))
    shape = (len(configs), len(group.arms), rates, config.seeds, len(found["train"]))
    stacked = {name: np.stack(values, axis=-1).reshape(shape) for name, values in found.items()}
    return [
        {
            arm.name: {name: values[i, j] for name, values in stacked.items()}
            for j, arm in enumerate(group.arms)
        }
        for i in range(len(configs))
    ]


def _slice(tree, first, size):
    return jax.tree.map(lambda leaf: leaf[first : first + size], tree)


@jax.jit
@jax.vmap
def _weight_std(params):
    """Standard deviation of the square hidden kernels, where the prediction holds."""
    kernels = [layer["kernel"] for name, layer in params.items() if name.startswith("hidden_")]
    square = [kernel.ravel() for kernel in kernels if kernel.shape[0] == kernel.shape[1]]
    return jnp.std(jnp.concatenate(square))


def _evaluation_steps(config) -> list[int]:
    return [max(1, round(share * config.steps)) for share in config.evaluate_at]


def _choose(config, found) -> dict[str, np.ndarray]:
    """What an arm measured at the learning rate with the best validation accuracy."""
    best = found["validation"][..., -config.averaged :].mean(axis=(1, 2)).argmax()
    return {name: values[best] for name, values in found.items()}


def _final(config, found) -> dict[str, np.ndarray]:
    """One number per seed: means of the last evaluations, since curves are jumpy at high rates."""
    accuracy = found["test"][:, -config.averaged :].mean(axis=1)
    return {
        "accuracy": accuracy,
        "train_accuracy": found["train"][:, -config.averaged :].mean(axis=1),
        "learned": 100.0 * (accuracy > 50.0),
        "weight_std": found["weight_std"][:, -1],
    }


def _figures(config, chosen, steps) -> list[Figure]:
    curves = functools.partial(trove_jax.evidence.curves, steps, xlabel="steps", order=ARMS)
    deep = {arm: found for arm, found in chosen.items() if not arm.startswith("shallow")}
    threshold = float(np.sqrt(2 / config.width))
    return [
        Figure(
            "accuracy",
            f"Test accuracy of {config.depth} layers at the chosen learning rate.",
            functools.partial(
                curves,
                {arm: found["test"] for arm, found in deep.items()},
                ylabel="test accuracy (%)",
            ),
        ),
        Figure(
            "weight_std",
            "Standard deviation of the hidden weights; a rectified layer keeps the scale of its "
            "signal at the line.",
            functools.partial(
                curves,
                {arm: found["weight_std"] for arm, found in deep.items()},
                ylabel="standard deviation of weights",
                lines={"sqrt(2 / width)": threshold},
            ),
        ),
    ]


def _rate_notes(config, measured) -> list[str]:
    """What the paper prints, best and mean over all runs, and the learning rates chosen here."""
    notes = ["Best (mean) test accuracy over all learning rates and seeds: "]
    parts, rates = [], []
    for arm in ARMS:
        accuracy = measured[arm]["test"][..., -config.averaged :].mean(axis=-1)
        parts.append(f"{arm} {accuracy.max():.1f} ({accuracy.mean():.1f})")
        scores = measured[arm]["validation"][..., -config.averaged :].mean(axis=(1, 2))
        rates.append(f"{arm} {config.learning_rates[scores.argmax()]}")
    notes[0] += ", ".join(parts) + "."
    return [*notes, "Learning rates chosen on validation images: " + ", ".join(rates) + "."]


def _walk_note(config, chosen) -> str:
    """The predicted random walk at the largest rate, from zero, beside what was measured."""
    walk = trove_jax.transforms.expected_weight_std(
        max(config.learning_rates),
        config.zero_eta,
        config.gamma,
        steps=np.array(_evaluation_steps(config)),
    )
    measured = chosen["zero_noise"]["weight_std"].mean(axis=0)
    critical = 0.75 * np.sqrt(2 / config.width)
    return (
        f"Noise alone carries zero weights to a standard deviation of {walk[0]:.3f} after "
        f"{_evaluation_steps(config)[0]} steps and {walk[-1]:.3f} after {config.steps} "
        f"(measured {measured[0]:.3f} and {measured[-1]:.3f}, gradient included); the claim C2 can "
        f"only fail for a reason of its own where that passes {critical:.3f}."
    )


def _task(config, depth, start, prepare=None):
    """Classification by a perceptron from the named start; the same arguments, the same task."""
    settings = (config.width, config.stddev, config.good_start, config.data)
    return _cached_task(depth, start, prepare, *settings)


@functools.lru_cache(maxsize=16)
def _cached_task(depth, start, prepare, width, stddev, good_start, data):
    layers, models = trove_jax.layers, trove_jax.models
    shape, classes = trove_jax.data.input_shape(data)
    good = {"he": models.inputs.he_normal, "sussillo_abbott": layers.sussillo_abbott()}
    if good_start not in good:
        raise trove_jax.core.UsageError(f"good_start={good_start!r} is none of {', '.join(good)}")
    kernel_init = {
        "zero": layers.zeros,
        "simple": layers.simple_normal(stddev),
        "good": good[good_start],
    }[start]
    module = models.DeepMLP(depth, width, classes=classes, kernel_init=kernel_init)
    return trove_jax.losses.classification(module, shape, prepare=prepare)


def _plain(learning_rate, clip):
    """Clipping and plain SGD."""
    return optax.chain(optax.clip_by_global_norm(clip), optax.sgd(learning_rate))


def _noisy(learning_rate, clip, eta, gamma):
    """Gradient noise between the two."""
    noise = trove_jax.transforms.gradient_noise(eta, gamma, key=0)
    return optax.chain(optax.clip_by_global_norm(clip), noise, optax.sgd(learning_rate))
