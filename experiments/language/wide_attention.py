"""Wide attention: is one layer of many heads as good as several layers of few?

    python -m launch.run --experiment=wide_attention --preset=laptop

Encoders with the same number of heads in all, of the same size, share them out over layers in
several ways; everything else stays, so that a layer less is a perceptron less. Ten kinds of
attention classify film reviews, as words and as bytes, and nested operations on lists (ListOps).
At laptop size the blocks and windows of the kinds are a quarter of the sequence: the published ones
would hold all of it.

preset   data                        networks               expected                  time
smoke    ListOps                     2 layers               runs at all               seconds
laptop   SST-2 as words and bytes,   8 heads: 4x2, (2x4,)   wide as accurate; half    ~20 min CPU
         small ListOps, 5 seeds      1x8, width 64          the time or less
paper    IMDb as words and bytes,    16 to 48 heads         wide 0.3 points better,   ~300 h on one
         ListOps of 500 to 2000      width 256 and 512      3.1 times as fast         accelerator
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

import trove_jax
from experiments.language import _aspects as aspects
from trove_jax import core
from trove_jax.evidence import Claim, Evidence, Figure, System

SYSTEM = System(
    number=21,
    title="Wide attention",
    paper="Brown et al., Wide Attention Is The Way Forward For Transformers?, 2022, arXiv "
    "2210.00640",
    url="https://arxiv.org/abs/2210.00640",
)

_accuracy = functools.partial(Claim, metric="accuracy", unit="points")
_cost = functools.partial(Claim, kind="ratio", better="lower")

CLAIMS = (
    _accuracy(
        id="C1-mean",
        statement="Averaged over tasks and kinds of attention, one wide layer loses less than 0.5 "
        "points to the deep network.",
        treatment="wide",
        baseline="deep",
        margin=-0.5,
        paper="0.3 % more accurate over 4 tasks and 10 kinds",
        setting="three small tasks, 8 heads of size 16, width 64, 5 seeds, less than one pass over "
        "the data",
    ),
    *(
        _accuracy(
            id=f"C4-{task}",
            statement=f"On {title}, one wide layer loses less than 3 points to the deep network, "
            "in the mean over kinds.",
            treatment=f"{task}_wide",
            baseline=f"{task}_deep",
            margin=-3.0,
            paper="no kind of attention needs depth on these tasks",
        )
        for task, title in (
            ("sst2_words", "short reviews as words"),
            ("sst2_bytes", "short reviews as bytes"),
            ("listops", "ListOps"),
            ("imdb_words", "long reviews as words"),
            ("imdb_bytes", "long reviews as bytes"),
        )
    ),
    _cost(
        id="C2-speed",
        statement="For one sequence of bytes, one wide layer needs at most half the time of the "
        "deep network on this machine.",
        metric="latency_1_ms",
        treatment="cost_wide",
        baseline="cost_deep",
        margin=0.5,
        paper="3.1 times as fast on a CPU (IMDb bytes, 1x16 against 4x4)",
        setting="256 bytes, 8 heads, dense attention",
    ),
    _cost(
        id="C2-size",
        statement="At the published size for bytes (257 tokens, 1000 positions, 1x16 against 4x4), "
        "embedding and layers of the wide network have at most 0.56 of the parameters.",
        metric="parameters",
        treatment="published_wide",
        baseline="published_deep",
        margin=0.56,
        paper="half the size",
    ),
    _cost(
        id="C3-memory",
        statement="A training step of the wide network needs less temporary memory.",
        metric="temporary_mib",
        treatment="cost_wide",
        baseline="cost_deep",
        margin=1.0,
        paper="a smaller memory footprint",
        setting="256 bytes, batches of 32, 8 heads, dense attention",
    ),
)


def get_config(preset: str) -> ml_collections.ConfigDict:
    """The settings of a preset."""
    changes = {"smoke": _SMOKE, "laptop": {}, "paper": _PAPER}[preset]
    return ml_collections.ConfigDict(_settings(**changes))


def _task(**changes: Any) -> dict[str, Any]:
    """Settings of one task; the first aspect is the deep one, the last the wide one."""
    return {
        "source": "words",
        "data": "sst2",
        "length": 32,
        "vocabulary": 4000,
        "outputs": 2,
        "train": 0,  # examples; 0: all
        "kinds": aspects.KINDS,
        "aspects": ((4, 2), (1, 8)),
        "more_aspects": ("vanilla",),  # kinds that are swept over all aspects of the family
        "head_dim": 16,
        "width": 64,
        "feed_forward": 128,
        "dropout": 0.0,
        "pool": "mean",
        "published": False,
        "steps": 280,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "warmup": 0,
        **changes,
    }


_LISTOPS: dict[str, Any] = {
    "source": "listops",
    "data": "",
    "vocabulary": 16,
    "outputs": 10,
    "max_depth": 4,
    "max_args": 5,
    "min_length": 8,
    "test": 1000,
}
_WORDS = _task()
_BYTES = _task(
    source="bytes",
    length=256,
    vocabulary=257,
    train=2000,
    kinds=("vanilla", "local", "performer"),
    more_aspects=(),
    steps=40,
)
_LISTS = _task(
    **_LISTOPS,
    length=64,
    train=6000,
    kinds=("vanilla", "local", "performer"),
    more_aspects=(),
    steps=200,
)


def _settings(**changes: Any) -> dict[str, Any]:
    return {
        "seeds": 5,
        "tasks": {"sst2_words": _WORDS, "sst2_bytes": _BYTES, "listops": _LISTS},
        # What costs are measured on: the network of this task with dense attention.
        "cost": {"task": "sst2_bytes", "batches": (1, 32), "repeats": 20, "memory": True},
        **changes,
    }


_TINY: dict[str, Any] = {
    "aspects": ((2, 1), (1, 2)),
    "head_dim": 4,
    "width": 8,
    "feed_forward": 8,
    "more_aspects": (),
    "batch_size": 4,
    "steps": 4,
}
_SMOKE = {
    "seeds": 2,
    "tasks": {
        "listops": _LISTS | _TINY | {"length": 16, "train": 64, "test": 50, "kinds": ("linear",)},
    },
    # Compiling a training step once more for its memory takes longer than all else.
    "cost": {"task": "listops", "batches": (1,), "repeats": 2, "memory": False},
}
_LARGE: dict[str, Any] = {"published": True, "dropout": 0.1, "learning_rate": 0.05}
_IMDB = {
    **_LARGE,
    "data": "imdb",
    "aspects": ((4, 4), (2, 8), (1, 16)),
    "more_aspects": aspects.KINDS,
    "head_dim": 64,
    "width": 256,
    "feed_forward": 1024,
    "pool": "cls",
    "length": 1000,
    "steps": 20_000,
    "batch_size": 32,
    "warmup": 8_000,
}
_PAPER = {
    "tasks": {
        "imdb_words": _task(**_IMDB | {"vocabulary": 30_000}),
        "imdb_bytes": _task(**_IMDB | {"source": "bytes", "vocabulary": 257}),
        "listops": _task(
            **_LISTOPS
            | _LARGE
            | {
                "length": 2000,
                "min_length": 500,
                "max_depth": 10,
                "max_args": 10,
                "train": 96_000,
                "test": 2_000,
                "aspects": ((6, 8), (4, 12), (3, 16), (2, 24), (1, 48)),
                "more_aspects": aspects.KINDS,
                "head_dim": 64,
                "width": 512,
                "feed_forward": 2048,
                "pool": "cls",
                "steps": 5_000,
                "batch_size": 32,
                "warmup": 1_000,
            }
        ),
    },
    "cost": {"task": "imdb_bytes", "batches": (1, 32), "repeats": 10, "memory": True},
}


def data_sets(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Names of the data sets that a configuration reads."""
    return tuple(dict.fromkeys(task.data for task in config.tasks.values() if task.data))


def plan(config: ml_collections.ConfigDict) -> list[core.StagePlan]:
    """The training runs that a configuration asks for."""
    return [
        # Of each task the deepest network, which has the most parameters: tracing takes its time.
        core.plan_stage(
            f"{name}: all kinds and aspects",
            aspects.task_of(
                _module(task, task.kinds[0], task.aspects[0], vocabulary=task.vocabulary)
            ),
            aspects.optimiser(task.learning_rate, task.warmup),
            runs=len(_arms(task)),
            seeds=config.seeds,
            steps=task.steps,
        )
        for name, task in config.tasks.items()
    ]


def run(config: ml_collections.ConfigDict, context: Any) -> Evidence:
    """Trains all arms and gathers what the claims compare."""
    arms: dict[str, dict[str, Any]] = {}
    provenance = []
    starts: dict[Any, core.TrainState] = {}
    for name, task in config.tasks.items():
        data = aspects.load(task, context.data_dir)
        provenance.append(data.provenance)
        for arm, kind, aspect in _arms(task):
            module = _module(task, kind, aspect, vocabulary=data.vocabulary)
            found = _train(config, context, f"{name}/{arm}", task, module, data, starts)
            arms[f"{name}_{arm}"] = {
                "accuracy": found,
                "parameters": [aspects.parameters(module)] * config.seeds,
            }
    arms |= _means(config, arms)
    arms |= _costs(config)
    arms |= _published_sizes(config)
    return Evidence(
        arms={
            name: {metric: [float(x) for x in values] for metric, values in found.items()}
            for name, found in arms.items()
        },
        figures=_figures(config, arms),
        data=provenance,
        notes=[*_difference_notes(config, arms), *_NOTES],
        not_tested=trove_jax.evidence.not_measured(CLAIMS, arms),
    )


_NOTES = (
    "All kinds and aspects of a task have the same steps, batches and rate; nothing was chosen. "
    "Accuracy is on test data after the last step.",
    "The laptop preset trains for less than one pass over the data, the bytes least: where "
    "accuracy is near that of guessing, equal accuracy says little.",
    "Dropout, where there is some, takes what heads read, not attention weights.",
    "Costs are of dense attention in tiles, which never holds all scores: with all scores held, a "
    "wide layer would need more memory than a deep network's layer.",
    "Document matching (AAN) is not measured: its pairs are not in the catalogue.",
)


def _arms(task) -> list[tuple[str, str, tuple[int, int]]]:
    """Name, kind and aspect of the training runs of a task."""
    found = []
    for kind in task.kinds:
        family = _family(task) if kind in task.more_aspects else _ends(task)
        for aspect in family:
            found.append((f"{kind}_{_name(task, aspect)}", kind, aspect))
    return found


def _ends(task) -> list[tuple[int, int]]:
    return [tuple(task.aspects[0]), tuple(task.aspects[-1])]


def _family(task) -> list[tuple[int, int]]:
    """All aspects of the settings; of two, also those between them whose layers are halves."""
    if len(task.aspects) > 2:
        return [tuple(aspect) for aspect in task.aspects]
    deep, wide = _ends(task)
    depths = [deep[0]]
    while depths[-1] > wide[0]:
        depths.append(depths[-1] // 2)
    return trove_jax.models.aspect_family(deep[0] * deep[1], layers=depths)


def _name(task, aspect) -> str:
    deep, wide = _ends(task)
    depth, heads = aspect
    return {deep: "deep", wide: "wide"}.get(tuple(aspect), f"{depth}x{heads}")


def _module(task, kind, aspect, *, vocabulary, outputs=None):
    return aspects.module_of(
        vocabulary,
        outputs or task.outputs,
        length=task.length,
        aspect=tuple(aspect),
        head_dim=task.head_dim,
        width=task.width,
        feed_forward=task.feed_forward,
        kind=aspects.kind_of(
            # A learned token in front makes sequences longer by one.
            kind,
            task.length + (task.pool == "cls"),
            head_dim=task.head_dim,
            published=task.published,
        ),
        dropout=task.dropout,
        pool=task.pool,
    )


def _train(config, context, stage, settings, module, data, starts) -> np.ndarray:
    """Test accuracy of the seeds, in percent; `starts` holds initial states by their shapes."""
    task = aspects.task_of(module)
    tx = aspects.optimiser(settings.learning_rate, settings.warmup)
    keys = core.seed_keys(config.seeds)
    # Kinds with the same parameters start from the same values, which take seconds to compile.
    shapes, tree = jax.tree.flatten(jax.eval_shape(task.init, keys[0]))
    same = (tree, tx, *((leaf.shape, leaf.dtype) for leaf in shapes))
    if same not in starts:
        starts[same] = core.init_states(task, tx, keys)
    state, _ = context.train_seeds(
        stage,
        task,
        tx,
        core.Data(jax.tree.map(jnp.asarray, data.train)),
        keys,
        steps=settings.steps,
        batch_size=settings.batch_size,
        start=starts[same],
    )
    test = core.Data(jax.tree.map(jnp.asarray, data.test))
    return 100.0 * np.asarray(core.evaluate_seeds(task, state.variables, test)["accuracy"])


def _means(config, arms) -> dict[str, dict[str, Any]]:
    """Accuracy of the deep and of the wide networks, in the mean over kinds, and over all."""
    found: dict[str, dict[str, Any]] = {}
    for end in ("deep", "wide"):
        everything = []
        for name, task in config.tasks.items():
            of_task = [arms[f"{name}_{kind}_{end}"]["accuracy"] for kind in task.kinds]
            everything += of_task
            found[f"{name}_{end}"] = {"accuracy": np.mean(of_task, axis=0)}
        found[end] = {"accuracy": np.mean(everything, axis=0)}
    return found


def _costs(config) -> dict[str, dict[str, Any]]:
    """Latency and memory of the deepest and the widest network with dense attention."""
    task, cost = config.tasks[config.cost.task], config.cost
    modules = {
        f"cost_{end}": _module(task, "vanilla", aspect, vocabulary=task.vocabulary)
        for end, aspect in zip(("deep", "wide"), _ends(task), strict=True)
    }
    found: dict[str, dict[str, Any]] = {name: {} for name in modules}
    if cost.memory:
        for name, module in modules.items():
            size = aspects.temporary_mib(module, batch=max(cost.batches))
            found[name]["temporary_mib"] = [size] * config.seeds
    for batch in cost.batches:
        spent = aspects.latencies(modules, batch=batch, times=config.seeds, repeats=cost.repeats)
        for name, values in spent.items():
            found[name][f"latency_{batch}_ms"] = values
    return found


def _published_sizes(config) -> dict[str, dict[str, Any]]:
    """Parameters without the head, for bytes at the published size."""
    task = ml_collections.ConfigDict(_PAPER["tasks"]["imdb_bytes"])
    found = {}
    for end, aspect in zip(("deep", "wide"), _ends(task), strict=True):
        whole = aspects.parameters(_module(task, "vanilla", aspect, vocabulary=257))
        d, m = task.width, task.feed_forward
        # Two dense layers of the head, the token in front with its place, the last normalisation.
        rest = d * m + m + m * task.outputs + task.outputs + 2 * d + 2 * d
        found[f"published_{end}"] = {"parameters": [whole - rest] * config.seeds}
    return found


def _difference_notes(config, arms) -> list[str]:
    """Wide minus deep of every kind, in points, with the paired interval over seeds."""
    notes = []
    for name, task in config.tasks.items():
        parts = []
        for kind in task.kinds:
            wide, deep = (np.asarray(arms[f"{name}_{kind}_{e}"]["accuracy"]) for e in _ENDS)
            low, high, *_ = trove_jax.evidence.paired_interval(wide - deep)
            parts.append(
                f"{kind} {deep.mean():.1f} to {wide.mean():.1f} % ({low:+.1f} to {high:+.1f})"
            )
        sizes = [arms[f"{name}_{task.kinds[0]}_{end}"]["parameters"][0] for end in _ENDS]
        notes.append(
            f"{name}, deep to wide (95 % interval of the difference in points): "
            + ", ".join(parts)
            + f"; parameters of {task.kinds[0]} {sizes[1]:.0f} and {sizes[0]:.0f}."
        )
    batch = max(config.cost.batches)
    wide, deep = (arms[f"cost_{end}"][f"latency_{batch}_ms"] for end in _ENDS)
    notes.append(
        f"Inference of {batch} sequences of {config.tasks[config.cost.task].length}: deep "
        f"{np.mean(deep):.1f} ms, wide {np.mean(wide):.1f} ms."
    )
    return notes


_ENDS = ("wide", "deep")


def _figures(config, arms) -> list[Figure]:
    figures = []
    for name, task in config.tasks.items():
        family = _family(task)
        swept = [kind for kind in task.kinds if kind in task.more_aspects]
        if not swept or len(family) < 3:
            continue
        curves = {
            kind: np.stack(
                [arms[f"{name}_{kind}_{_name(task, aspect)}"]["accuracy"] for aspect in family], 1
            )
            for kind in swept
        }
        figures.append(
            Figure(
                f"aspects_{name}",
                f"Test accuracy on {name} by the number of layers that share "
                f"{family[0][0] * family[0][1]} heads.",
                functools.partial(
                    trove_jax.evidence.curves,
                    np.array([depth for depth, _ in family]),
                    curves,
                    xlabel="layers",
                    ylabel="test accuracy (%)",
                    log_x=True,
                ),
            )
        )
    return figures
