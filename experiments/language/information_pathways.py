"""Stochastically subsampled attention: is a network trained on few keys as good, or better?

    python -m launch.run --experiment=information_pathways --preset=laptop

A Transformer classifies digits, read as 64 pixels, and a causal one predicts the next character of
Shakespeare's plays. In training every layer and step draws a quarter of the keys: at random (SSA-U)
or near the query (SSA-LB); the last tenth of the steps is dense. Dense attention, with and without
dropout, and fixed windows are trained the same way: the learning rate drops at the same step.
Ensembles average networks that go on drawing keys, in the last tenth and at test time.

preset   data                       networks              expected                     time
smoke    digits                     1 layer               runs at all                  seconds
laptop   digits, Tiny Shakespeare,  4 and 2 layers of     drawn keys as good as dense  ~12 min CPU
         5 seeds                    width 32 and 48       ones; ensembles gain
paper    digits with more spreads,  12 layers of width    equal or fewer bits at 1/4   ~300 h on one
         enwik8, CIFAR-10           512                   and 1/8 of the cost          accelerator
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

import trove_jax
from experiments.language import _subsampled as subsampled
from trove_jax import core
from trove_jax.evidence import Claim, Evidence, Figure, System
from trove_jax.layers import LocalSubsampledAttention, UnbiasedSubsampledAttention

SYSTEM = System(
    number=39,
    title="Stochastically subsampled attention",
    paper="Hussain, Zaki and Subramanian, The Information Pathways Hypothesis: Transformers are "
    "Dynamic Self-Ensembles, KDD 2023, arXiv 2306.01705",
    url="https://arxiv.org/abs/2306.01705",
)

_digits = functools.partial(
    Claim,
    metric="accuracy",
    unit="points",
    treatment="digits_ssa_local",
    baseline="digits_dense",
    setting="digits as 64 pixels, 4 layers of width 32, 16 of 64 keys, 5 seeds",
)
_cost = functools.partial(
    Claim,
    treatment="attention_ssa_local",
    baseline="attention_dense",
    kind="ratio",
    better="lower",
    paper="4 to 8 times less, memory and compute",
    setting="attention and its gradient, all scores at once, 4096 tokens, 512 keys, as compiled "
    "for this machine",
)
_bits = functools.partial(Claim, metric="bits", unit="bits per token", better="lower")

CLAIMS = (
    _cost(
        id="C1-compute",
        statement="With an eighth of the keys, attention in training needs an eighth of the "
        "operations (at most 3 % more).",
        metric="flops",
        margin=1 / (8 * 0.97),
    ),
    _cost(
        id="C1-memory",
        statement="With an eighth of the keys, attention in training needs an eighth of the "
        "temporary memory (at most 11 % more).",
        metric="temporary_mib",
        margin=1 / (8 * 0.9),
    ),
    _digits(
        id="C2-accuracy",
        statement="Locally drawn keys and a short dense phase lose less than 0.3 points to dense "
        "training.",
        margin=-0.3,
        paper="better generalisation than dense training",
    ),
    _digits(
        id="C2-gap",
        statement="Locally drawn keys and a short dense phase leave a smaller gap between training "
        "and test accuracy than dense training.",
        metric="gap",
        better="lower",
        paper="better generalisation than dense training",
    ),
    _digits(
        id="B-dropout",
        statement="Locally drawn keys and a short dense phase are better than dropout of 0.1.",
        baseline="digits_dense_dropout",
        paper="not compared",
    ),
    _digits(
        id="C3-rise",
        statement="An ensemble of 8 draws of the keys is more accurate than one draw.",
        treatment="digits_ssa_local_ensemble_8",
        baseline="digits_ssa_local_ensemble_1",
        paper="sub-ensembles can beat the dense network",
    ),
    _digits(
        id="C3-dense",
        statement="An ensemble of 16 draws of the keys loses less than 0.2 points to a network "
        "that was trained and is used dense.",
        treatment="digits_ssa_local_ensemble_16",
        margin=-0.2,
        paper="sub-ensembles can beat the dense network",
    ),
    _bits(
        id="C4-text",
        statement="On text, locally drawn keys are better than as many drawn at random.",
        treatment="text_ssa_local",
        baseline="text_ssa_unbiased",
        setting="Tiny Shakespeare, 128 characters, 32 keys, 2 layers of width 48, 5 seeds",
    ),
    _bits(
        id="C2-text",
        statement="On text, locally drawn keys and a short dense phase lose less than 0.02 bits to "
        "dense training.",
        treatment="text_ssa_local",
        baseline="text_dense",
        margin=-0.02,
        paper="better generalisation than dense training",
        setting="Tiny Shakespeare, 128 characters, 32 keys, 2 layers of width 48, 5 seeds",
    ),
    _bits(
        id="C2-enwik8",
        statement="On enwik8, locally drawn keys and a short dense phase lose less than 0.01 bits "
        "to dense training.",
        treatment="enwik8_ssa_local",
        baseline="enwik8_dense",
        margin=-0.01,
        paper="better generalisation than dense training",
    ),
    _bits(
        id="C2-cifar10",
        statement="On the pixels of CIFAR-10, locally drawn keys and a short dense phase lose less "
        "than 0.01 bits to dense training.",
        treatment="cifar10_ssa_local",
        baseline="cifar10_dense",
        margin=-0.01,
        paper="better generalisation than dense training",
    ),
)

_ENSEMBLES = (1, 2, 4, 8, 16)
_ENWIK8_TRAINS = 90_000_000  # bytes, of 10^8


def get_config(preset: str) -> ml_collections.ConfigDict:
    """The settings of a preset."""
    changes = {"smoke": _SMOKE, "laptop": {}, "paper": _PAPER}[preset]
    return ml_collections.ConfigDict(_settings(**changes))


def _part(**changes: Any) -> dict[str, Any]:
    """Settings of one data set; `source` says how it becomes sequences."""
    return {
        "source": "digits",
        "data": "digits",
        "length": 64,
        "layers": 4,
        "heads": 4,
        "head_dim": 8,
        "width": 32,
        "feed_forward": 64,
        # With 168 steps of 128 at 1e-3, about as many examples, the dense network learns little:
        # 31 % on validation digits; with more, shorter steps at a higher rate 79 %.
        "steps": 500,
        "batch_size": 32,
        "learning_rate": 3e-3,
        "warmup": 0,
        "window": 16,
        "sigma": 8.0,
        "others": (),  # further (window, sigma)
        "arms": ("dense", "dense_dropout", "ssa_unbiased", "ssa_local", "local_windows"),
        "dropout": 0.1,
        **changes,
    }


_DIGITS = _part()
_TEXT = _part(
    source="text",
    data="tinyshakespeare",
    length=128,
    layers=2,
    head_dim=12,
    width=48,
    feed_forward=96,
    steps=200,
    window=32,
    sigma=16.0,
    arms=("dense", "ssa_unbiased", "ssa_local"),
)
_LARGE = {
    "layers": 12,
    "heads": 8,
    "head_dim": 64,
    "width": 512,
    "feed_forward": 2048,
    "learning_rate": 3e-4,
    "warmup": 4000,
    "arms": ("dense", "ssa_local"),
}


def _settings(**changes: Any) -> dict[str, Any]:
    return {
        "seeds": 5,
        "parts": ("digits", "text"),
        # One seed after the other takes three quarters of the time on a CPU; None: as core chooses.
        "over_seeds": "map",
        "dense_share": 0.1,
        "dense_rate": 0.1,
        "cost": {"length": 4096, "window": 512, "heads": 4, "head_dim": 64},
        "digits": _DIGITS,
        "text": _TEXT,
        "enwik8": _part(
            source="bytes",
            data="enwik8",
            length=1024,
            window=256,
            sigma=128.0,
            steps=250_000,
            batch_size=24,
            **_LARGE,
        ),
        "cifar10": _part(
            source="pixels",
            data="cifar10",
            length=3072,
            window=384,
            sigma=192.0,
            steps=200_000,
            batch_size=16,
            **_LARGE,
        ),
        **changes,
    }


_TINY = {"layers": 1, "heads": 2, "head_dim": 4, "width": 8, "feed_forward": 8, "batch_size": 4}
_SMOKE = {
    "seeds": 2,
    "parts": ("digits",),
    "cost": {"length": 256, "window": 32, "heads": 1, "head_dim": 8},
    "digits": {**_DIGITS, **_TINY, "steps": 6, "arms": ("dense", "ssa_local")},
}
_PAPER = {
    "over_seeds": None,
    "parts": ("digits", "enwik8", "cifar10"),
    "digits": {
        **_DIGITS,
        "steps": 1120,
        "others": ((8, 4.0), (16, 4.0), (16, 16.0), (16, 64.0)),
    },
}


def data_sets(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Names of the data sets that a configuration reads."""
    return tuple(dict.fromkeys(config[part].data for part in config.parts))


def plan(config: ml_collections.ConfigDict) -> list[core.StagePlan]:
    """The training runs that a configuration asks for."""
    found = []
    for part in config.parts:
        # What a vocabulary of characters comes to is read from the data; 256 is the most.
        net = subsampled.net_of(config[part], vocabulary=257, outputs=257)
        found += subsampled.plan(
            part,
            net,
            subsampled.arms_of(config[part]),
            subsampled.schedule_of(config, config[part]),
            seeds=config.seeds,
            ensembles=not net.predicts,
        )
    return found


def pod_step(config: ml_collections.ConfigDict) -> core.PodStep:
    """The step of the first arm that draws keys, on enwik8, for compiling it for a pod."""
    settings = config.enwik8
    net = subsampled.net_of(settings, vocabulary=256, outputs=256)
    schedule = subsampled.schedule_of(config, settings)
    arm = next(arm for arm in subsampled.arms_of(settings) if arm.is_drawn)
    return core.PodStep(
        f"{arm.name} network of {net.layers} layers on {settings.data}",
        subsampled.task_of(net, arm),
        subsampled.optimiser(schedule),
        subsampled.abstract_windows(_ENWIK8_TRAINS // net.length, net.length),
        schedule.batch_size,
        config.seeds,
    )


def run(config: ml_collections.ConfigDict, context: Any) -> Evidence:
    """Trains all arms and gathers what the claims compare."""
    keys = core.seed_keys(config.seeds)
    arms, provenance, notes = _measure_cost(config), [], []
    curves: dict[str, Any] = {}
    for part in config.parts:
        data = subsampled.load(config[part], context.data_dir)
        provenance.append(data.provenance)
        found = _train_part(config, context, part, data, keys)
        arms |= found.arms
        notes += found.notes
        curves |= found.curves
    reach = _reach(config)
    return Evidence(
        arms={
            name: {metric: [float(x) for x in values] for metric, values in found.items()}
            for name, found in arms.items()
        },
        figures=_figures(config, curves, reach),
        data=list({found["name"]: found for found in provenance}.values()),
        notes=[*notes, *_NOTES],
        curves={**curves, **{f"reach_{name}": values for name, values in reach.items()}},
        not_tested=trove_jax.evidence.not_measured(CLAIMS, arms),
    )


_NOTES = (
    "All arms have the same steps, batches and rates. An ensemble is of a network that goes on "
    "drawing keys to its last step, at the lowered rate, so that no arm has more training.",
    "The authors published no program: the law of the shuffle (normal), one draw for each example "
    "and layer, and the share of dense steps are assumptions.",
)


def _measure_cost(config) -> dict[str, Any]:
    """Deterministic: one value for all seeds."""
    cost = config.cost
    kinds = {
        "dense": "vanilla",
        "ssa_local": LocalSubsampledAttention(window=cost.window),
        "ssa_unbiased": UnbiasedSubsampledAttention(keys=cost.window),
    }
    sizes = {"heads": cost.heads, "head_dim": cost.head_dim}
    found = {
        name: subsampled.attention_cost(kind, cost.length, **sizes) for name, kind in kinds.items()
    }
    return {
        f"attention_{name}": {metric: [value] * config.seeds for metric, value in values.items()}
        for name, values in found.items()
    }


def _train_part(config, context, part, data, keys) -> Evidence:
    """Trains and measures the arms of one data set."""
    settings = config[part]
    net = subsampled.net_of(settings, vocabulary=data.vocabulary, outputs=data.outputs)
    schedule, task = (
        subsampled.schedule_of(config, settings),
        subsampled.task_of(net, subsampled.DENSE),
    )
    # Nothing is chosen here, so that what is held out for choosing trains too.
    whole = {name: np.concatenate([data.train[name], data.validation[name]]) for name in data.train}
    learned = jax.tree.map(jnp.asarray, whole if not net.predicts else data.train)
    data = data.__class__(**{**vars(data), "train": learned})
    test = jax.tree.map(jnp.asarray, data.test)
    arms: dict[str, Any] = {}
    curves: dict[str, Any] = {}
    notes = []
    for arm in subsampled.arms_of(settings):
        name = f"{part}_{arm.name}"
        trained = subsampled.train(
            context, f"{part}/{arm.name}", net, arm, schedule, data, keys,
            ensembles=not net.predicts, over_seeds=config.over_seeds,
        )  # fmt: skip
        arms[name] = _measure(task, net, trained.finished, data.train, test)
        if trained.sampled is not None:
            arms[f"{name}_drawn"] = _measure(task, net, trained.sampled, data.train, test)
            found = subsampled.ensemble_accuracy(
                subsampled.module_of(net, arm), trained.sampled, test, keys, _ENSEMBLES[-1]
            )
            curves[name] = np.asarray(found)
            for count in _ENSEMBLES:
                arms[f"{name}_ensemble_{count}"] = {"accuracy": found[:, count - 1]}
        if arm.name == "dense" and not net.predicts:
            notes.append(_support_note(settings, net, trained.finished, test))
    return Evidence(arms=arms, notes=notes, curves=curves)


def _measure(task, net, variables, learned, test) -> dict[str, Any]:
    found = core.evaluate_seeds(task, variables, core.Data(test))
    accuracy = 100.0 * found["accuracy"]
    if net.predicts:
        return {"bits": found["bits"], "accuracy": accuracy}
    train = 100.0 * core.evaluate_seeds(task, variables, core.Data(learned))["accuracy"]
    return {"accuracy": accuracy, "train_accuracy": train, "gap": train - accuracy}


def _support_note(settings, net, variables, test) -> str:
    """How much of the first seed's dense attention falls on keys that would have been drawn."""
    drawn = [arm for arm in subsampled.arms_of(settings) if arm.is_drawn]
    if not drawn:
        return "No arm draws keys."
    one = jax.tree.map(lambda leaf: leaf[0], variables)
    kinds = tuple(arm.attention for arm in drawn)
    mass, overlap = subsampled.support(net, one, test["tokens"][:64], kinds)
    parts = [
        f"{arm.name} " + ", ".join(f"{float(share):.2f}" for share in row)
        for arm, row in zip(drawn, mass, strict=True)
    ]
    return (
        "Share of dense attention, layer by layer, that falls on keys as they are drawn: "
        + "; ".join(parts)
        + ". Overlap of two heads of the dense network: "
        + ", ".join(f"{float(share):.2f}" for share in overlap)
        + "."
    )


def _reach(config) -> dict[str, np.ndarray]:
    """Pairs of pixels that layers of fresh draws join, by arm, `[draws, layers]`."""
    settings = config.digits
    return {
        arm.name: subsampled.reach_by_depth(arm.attention, settings.length, settings.layers)
        for arm in subsampled.arms_of(settings)
        if arm.is_sampled
    }


def _figures(config, curves, reach) -> list[Figure]:
    figures = [
        Figure(
            "reach",
            "Share of the pairs of 64 tokens between which there is a way through so many layers, "
            "each with a draw of its own; without shuffling, windows stay apart.",
            functools.partial(
                trove_jax.evidence.curves,
                np.arange(1, config.digits.layers + 1),
                reach,
                xlabel="layers",
                ylabel="pairs joined",
            ),
        )
    ]
    if curves:
        figures.append(
            Figure(
                "ensembles",
                "Test accuracy of the mean of so many draws of the keys.",
                functools.partial(
                    trove_jax.evidence.curves,
                    np.arange(1, _ENSEMBLES[-1] + 1),
                    curves,
                    xlabel="networks drawn",
                    ylabel="test accuracy (%)",
                ),
            )
        )
    return figures
