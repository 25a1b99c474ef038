"""FastRP: are embeddings that nobody trains as good as those of DeepWalk, and how much faster?

    python -m launch.run --experiment=fastrp --preset=laptop

Nodes of three citation graphs are embedded from their links alone, and a linear classifier reads
their classes with a tenth of the labels. FastRP is compared with DeepWalk (skip-gram on random
walks) and node2vec (on walks that turn back or go far), and with itself where one part is changed:
a singular value decomposition instead of the random projection, no weighting by degree, the first
power alone, a Gaussian projection. Settings of every method are chosen on nodes that are set aside.

preset   data                   walks                 expected                        time
smoke    digits as a graph      2 walks a node        runs at all                     seconds
laptop   Cora, CiteSeer,        Cora and CiteSeer,    FastRP within 1 point of        ~15 min CPU
         PubMed, 10 seeds       20 walks a node       DeepWalk at a hundredth of its
                                                      time; one power much worse
paper    the same               all three, 80 walks   the same                        ~1 h on one
                                a node                                                accelerator
"""

import functools
import statistics
import time
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

import trove_jax
from experiments.graphs import _embeddings as embeddings
from experiments.graphs import _planetoid as planetoid
from experiments.graphs._deepwalk import DeepWalk, Step, train
from trove_jax import core
from trove_jax.evidence import Claim, Evidence, Figure, System

SYSTEM = System(
    number=48,
    title="FastRP",
    paper="Chen et al., Fast and Accurate Network Embeddings via Very Sparse Random Projection, "
    "CIKM 2019, arXiv 1908.11512",
    url="https://arxiv.org/abs/1908.11512",
)

_TITLES = {"cora": "Cora", "citeseer": "CiteSeer", "pubmed": "PubMed"}
_claim = functools.partial(
    Claim,
    metric="macro_f1",
    unit="points",
    setting="citation graphs instead of WWW, BlogCatalog and Flickr, 10 % of the labels, width 128",
)


def _claims(name: str, title: str) -> tuple[Claim, ...]:
    ours = functools.partial(_claim, treatment=f"{name}_fastrp")
    return (
        ours(
            id=f"C1-{name}",
            statement=f"On {title}, FastRP loses less than 1 point of DeepWalk's macro F1.",
            baseline=f"{name}_deepwalk",
            margin=-1.0,
            paper="equal or better on all sets",
        ),
        ours(
            id=f"C1-{name}-node2vec",
            statement=f"On {title}, FastRP loses less than 1 point of node2vec's macro F1.",
            baseline=f"{name}_node2vec",
            margin=-1.0,
            paper="equal or better on all sets",
        ),
        ours(
            id=f"C1-{name}-time",
            statement=f"On {title}, FastRP takes at most a hundredth of DeepWalk's time.",
            metric="seconds",
            baseline=f"{name}_deepwalk",
            better="lower",
            kind="ratio",
            margin=0.01,
            unit="s",
            paper="over 4,000 times faster on the largest sets",
        ),
        ours(
            id=f"C3-{name}-svd",
            statement=f"On {title}, FastRP loses less than 1 point against a singular value "
            "decomposition of the same similarity.",
            baseline=f"{name}_svd",
            margin=-1.0,
            paper="the reducer does not matter",
        ),
        ours(
            id=f"C3-{name}-degree",
            statement=f"On {title}, FastRP is better than without its weighting by degree.",
            baseline=f"{name}_beta_0",
            paper="weighting by degree helps",
        ),
        ours(
            id=f"C3-{name}-order",
            statement=f"On {title}, FastRP is at least 3 points better than its first power alone.",
            baseline=f"{name}_order_1",
            margin=3.0,
            paper="low powers alone are much worse",
        ),
        ours(
            id=f"C4-{name}",
            statement=f"On {title}, a very sparse projection is within 1 point of a Gaussian one.",
            baseline=f"{name}_gaussian",
            kind="equality",
            margin=1.0,
            paper="the same quality",
        ),
    )


CLAIMS = tuple(claim for name, title in _TITLES.items() for claim in _claims(name, title))

_ARMS = ("fastrp", "gaussian", "beta_0", "order_1")
_EXPONENTS = (0.0, 0.5, 1.0)
_GRID = (0.25, 0.5, 1.0, 2.0, 4.0)
_NODES = {"cora": 2708, "citeseer": 3327, "pubmed": 19717, "digits": 400}


class Trial(NamedTuple):
    """What is tuned of FastRP: the weight of the fourth power, and the power of the degrees."""

    alpha: float
    beta: float


class WalkTrial(NamedTuple):
    """What is tuned of DeepWalk and node2vec: how they train, and if columns are standardised."""

    arm: DeepWalk
    is_standardised: bool


class SvdTrial(NamedTuple):
    """What is tuned of the decomposition: as of FastRP, and the power of the singular values."""

    trial: Trial
    exponent: float


def get_config(preset: str) -> ml_collections.ConfigDict:
    """The settings of a preset."""
    changes = {"smoke": _SMOKE, "laptop": {}, "paper": _PAPER}[preset]
    return ml_collections.ConfigDict(_settings(**changes))


def _settings(**changes: Any) -> dict[str, Any]:
    return {
        "seeds": 10,
        "sets": ("cora", "citeseer", "pubmed"),
        "deepwalk_sets": ("cora", "citeseer"),
        "width": 128,
        "trials": 20,
        "walks": 20,
        "length": 40,
        "window": 10,
        "samples": 40,
        "batch": 128,
        "learning_rates": (0.003, 0.01, 0.03),
        "returns": ((0.25, 1.0), (4.0, 1.0), (1.0, 0.25), (1.0, 4.0)),
        "timed": 10,
        "repeats": 5,
        "powers": (1, 2, 3, 4, 5, 6),
        **changes,
    }


_SMOKE = {
    "seeds": 2,
    "sets": ("digits",),
    "deepwalk_sets": ("digits",),
    "width": 16,
    "trials": 2,
    "walks": 2,
    "length": 8,
    "window": 3,
    "samples": 8,
    "batch": 100,
    "learning_rates": (0.01,),
    "returns": (),  # walks of node2vec compile for as long as all else
    "timed": 1,
    "repeats": 1,
    "powers": (1, 2),
}
_PAPER = {
    "deepwalk_sets": ("cora", "citeseer", "pubmed"),
    "walks": 80,
    "returns": tuple((p, q) for p in _GRID for q in _GRID if not p == q == 1),
}


def data_sets(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Names of the data sets that a configuration reads."""
    return tuple(config.sets)


def plan(config: ml_collections.ConfigDict) -> list[core.StagePlan]:
    """The training runs that a configuration asks for: those on walks; other arms train nothing."""
    found = []
    for name in config.deepwalk_sets:
        arms = _deepwalks(config)
        for method, trials in (("deepwalk", arms), ("node2vec", _node2vecs(config, arms[0]))):
            if not trials:
                continue
            found += [arm.plan(_stage(name, arm), _NODES[name], seeds=1) for arm in trials]
            found.append(trials[0].plan(f"{name}_{method}", _NODES[name], seeds=config.seeds))
    return found


def run(config: ml_collections.ConfigDict, context: Any) -> Evidence:
    """Embeds all sets by all arms, and measures what the claims compare."""
    arms: dict[str, dict[str, list[float]]] = {}
    provenance, chosen, by_power = [], {}, {}
    for name in config.sets:
        loaded = planetoid.load(name, data_dir=context.data_dir)
        split = "links only; 10 % of the labels at random, settings chosen on 20 % set aside"
        provenance.append({**loaded.provenance, "split": split})
        results, choices, by_power[name] = _one_set(config, context, loaded)
        arms |= {f"{name}_{arm}": found for arm, found in results.items()}
        chosen |= {f"{name} {arm}": choice for arm, choice in choices.items()}
    return Evidence(
        arms=arms,
        figures=_figures(config, by_power),
        data=provenance,
        notes=[_scores_note(arms), _times_note(arms), _choices_note(chosen), *_NOTES],
        curves={
            "powers": config.powers,
            **{f"macro_f1_{name}": values for name, values in by_power.items()},
        },
        not_tested=trove_jax.evidence.not_measured(CLAIMS, arms),
    )


_NOTES = (
    "Settings have the best macro F1 on validation nodes that are in no test part: 20 pairs of "
    "weight and degree power, times three powers of the singular values for the decomposition; of "
    "DeepWalk three learning rates, columns standardised or not; of node2vec, at DeepWalk's rate, "
    "the return and in-out parameters, and columns likewise; and the classifier's C for all.",
    "DeepWalk's time is that of a training step, times its steps; FastRP's is that of one call. "
    "Both are compiled before, and the time for choosing settings counts for neither.",
    "WWW-10K, WWW-200K, BlogCatalog and Flickr are not measured. How time grows with "
    "nodes, edges, width and powers is in `python -m launch.bench --only=fastrp`.",
)


def _one_set(config, context, loaded):
    """Scores and seconds of every arm, the settings that were chosen, and scores by power."""
    topology = jax.device_put(loaded.topology())
    labels = np.asarray(loaded.labels)
    splits = embeddings.split_labels(labels, config.seeds)
    keys = core.seed_keys(config.seeds)
    results, choices = {}, {}
    for arm in _ARMS:
        choice = embeddings.choose(
            lambda trial, arm=arm: _embed(config, topology, arm, trial, _tuning_keys())[0],
            _trials(config),
            labels,
            splits.tuning,
        )
        xs = _embed(config, topology, arm, choice.settings, keys)
        results[arm] = embeddings.score(xs, labels, splits.parts, choice.cost)
        choices[arm] = choice
    results["svd"], choices["svd"] = _decomposed(config, topology, labels, splits)
    if loaded.name in config.deepwalk_sets:
        walked = functools.partial(_walked, context, loaded.name, topology, labels, splits, keys)
        results["deepwalk"], choices["deepwalk"] = walked("deepwalk", _deepwalks(config))
        best = choices["deepwalk"].settings.arm
        if config.returns:
            results["node2vec"], choices["node2vec"] = walked("node2vec", _node2vecs(config, best))
        taken = _times(config, topology, choices["fastrp"].settings, best, keys)
        for arm, seconds in taken.items():
            results[arm]["seconds"] = seconds
    curve = _by_power(config, topology, labels, splits, choices["fastrp"], keys)
    return results, choices, curve


def _tuning_keys() -> jax.Array:
    """A random key that no compared run has."""
    return core.seed_keys(1, root=48)


def _trials(config) -> list[Trial]:
    """The same random pairs for every arm: alpha from 1 to 64 in logarithms, beta from -1 to 0."""
    random = np.random.RandomState(48)
    return [
        Trial(float(64.0 ** random.uniform()), float(-random.uniform()))
        for _ in range(config.trials)
    ]


def _embed(config, topology, arm, trial, keys) -> np.ndarray:
    """Embeddings of all keys by an arm of FastRP, `[s, n, d]`."""
    return np.asarray(jax.vmap(lambda key: _fastrp(config, topology, arm, trial, key))(keys))


def _fastrp(config, topology, arm, trial, key, weights=None) -> jax.Array:
    """FastRP with the powers 3 and 4, or with the first alone; rows of each are normalised."""
    if weights is None:
        weights = (1.0,) if arm == "order_1" else (0.0, 0.0, 1.0, trial.alpha)
    with warnings.catch_warnings():
        # Nodes without links keep an embedding of 0, and count like all others.
        warnings.filterwarnings("ignore", message=".*no edge that comes in")
        return trove_jax.graphs.fastrp(
            topology,
            key,
            config.width,
            weights=weights,
            beta=0.0 if arm == "beta_0" else trial.beta,
            projection="gaussian" if arm == "gaussian" else "sparse",
            normalise_rows=True,
        )


def _by_power(config, topology, labels, splits, choice, keys) -> np.ndarray:
    """Macro F1 of each power alone, `[s, powers]`."""
    found = []
    for power in config.powers:
        weights = (*[0.0] * (power - 1), 1.0)
        xs = jax.vmap(
            lambda key, weights=weights: _fastrp(
                config, topology, "fastrp", choice.settings, key, weights
            )
        )(keys)
        scores = embeddings.score(np.asarray(xs), labels, splits.parts, choice.cost)
        found.append(scores["macro_f1"])
    return np.stack(found, axis=1)


def _decomposed(config, topology, labels, splits):
    """Scores of the singular value decomposition; it is the same for every seed."""

    @functools.cache
    def decompose(trial):
        weights = (0.0, 0.0, 1.0, trial.alpha)
        return embeddings.similarity_svd(topology, config.width, weights, trial.beta)

    def embed(settings):
        left, values = decompose(settings.trial)
        x = left * values**settings.exponent
        return x / x.std()

    trials = [SvdTrial(trial, power) for trial in _trials(config) for power in _EXPONENTS]
    choice = embeddings.choose(embed, trials, labels, splits.tuning)
    x = embed(choice.settings)
    return embeddings.score([x] * config.seeds, labels, splits.parts, choice.cost), choice


def _walked(context, name, topology, labels, splits, keys, method, arms):
    """Scores of an embedding by walks, at the settings that validation nodes choose."""

    @functools.cache
    def tuned(arm):
        return train(context, _stage(name, arm), arm, topology, _tuning_keys())[0]

    def finished(x, settings):
        return embeddings.standardised(x) if settings.is_standardised else x / x.std()

    trials = [WalkTrial(arm, is_it) for arm in arms for is_it in (False, True)]
    choice = embeddings.choose(
        lambda settings: finished(tuned(settings.arm), settings), trials, labels, splits.tuning
    )
    xs = train(context, f"{name}_{method}", choice.settings.arm, topology, keys)
    xs = [finished(x, choice.settings) for x in xs]
    return embeddings.score(xs, labels, splits.parts, choice.cost), choice


def _deepwalks(config) -> list[DeepWalk]:
    """DeepWalk at every learning rate."""
    shape = (config.width, config.walks, config.length, config.window, config.samples, config.batch)
    return [DeepWalk(*shape, rate) for rate in config.learning_rates]


def _node2vecs(config, deepwalk: DeepWalk) -> list[DeepWalk]:
    """The same training on walks that turn back or go far."""
    return [deepwalk._replace(p=p, q=q) for p, q in config.returns]


def _stage(name: str, arm: DeepWalk) -> str:
    if arm.p == arm.q == 1:
        return f"{name}_deepwalk_tuning/{arm.learning_rate:g}"
    return f"{name}_node2vec_tuning/{arm.p:g}_{arm.q:g}"


def _times(config, topology, trial, arm, keys) -> dict[str, list[float]]:
    """Seconds of one embedding by FastRP and by DeepWalk for each seed, taken in turn."""
    step = Step(arm, topology, keys[0], timed=config.timed)
    taken: dict[str, list[float]] = {"fastrp": [], "deepwalk": []}
    for number in range(-1, config.seeds):
        calls = []
        for _ in range(config.repeats):
            began = time.perf_counter()
            jax.block_until_ready(_fastrp(config, topology, "fastrp", trial, keys[number]))
            calls.append(time.perf_counter() - began)
        seconds = step.seconds()
        if number >= 0:
            taken["fastrp"].append(statistics.median(calls))
            taken["deepwalk"].append(seconds)
    return taken


def _scores_note(arms) -> str:
    parts = [
        f"{arm} {np.mean(found['macro_f1']):.1f} / {np.mean(found['micro_f1']):.1f}"
        for arm, found in arms.items()
    ]
    return f"Macro / micro F1 in percent, mean over seeds: {', '.join(parts)}."


def _times_note(arms) -> str:
    parts = [
        f"{arm} {np.mean(found['seconds']):.3g}"
        for arm, found in arms.items()
        if "seconds" in found
    ]
    return f"Seconds to embed a graph, mean over seeds: {', '.join(parts)}."


def _choices_note(chosen: Mapping[str, embeddings.Choice]) -> str:
    parts = []
    for name, choice in chosen.items():
        settings = choice.settings
        if isinstance(settings, WalkTrial):
            kind = "standardised" if settings.is_standardised else "as trained"
            arm = settings.arm
            shown = f"learning rate {arm.learning_rate:g}, p {arm.p:g}, q {arm.q:g}, {kind}"
        else:
            trial = settings.trial if isinstance(settings, SvdTrial) else settings
            shown = f"alpha {trial.alpha:.1f}, beta {trial.beta:.2f}"
            if isinstance(settings, SvdTrial):
                shown += f", singular values to the power {settings.exponent:g}"
        parts.append(f"{name}: {shown}, C {choice.cost:g} ({choice.macro_f1:.1f} %)")
    return f"Chosen (macro F1 on validation nodes): {'; '.join(parts)}."


def _figures(config, by_power) -> list[Figure]:
    return [
        Figure(
            "powers",
            "One power of the transition matrix alone, at the degree weighting chosen for all.",
            functools.partial(
                trove_jax.evidence.curves,
                np.asarray(config.powers),
                by_power,
                xlabel="power",
                ylabel="macro F1 (%)",
            ),
        )
    ]
