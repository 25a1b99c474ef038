"""AugLocal: do auxiliary networks made of later units let every unit learn by itself?

    python -m launch.run --experiment=auglocal --preset=laptop

A sequential network is trained end to end (BP), and unit by unit, each by a loss of its own behind
an auxiliary network that is dropped afterwards. AugLocal makes these networks of later units: of 1,
2 or 4 (shallow, middle, deep) evenly spaced ones, fewer towards the end. Baselines: a linear head
(greedy), a perceptron (DGL), similarity matching (PredSim), reconstruction (InfoPro, for images in
convolution networks). Controls: the next units in order, the last units, a constant depth. Every
arm runs at each learning rate of the grid, all seeds, and is judged at the rate that validation
images choose; those images are never trained on.

preset   data      networks                          expected                  time
smoke    digits    perceptron of 3 units, 3 arms     runs at all               seconds
laptop   MNIST-5k  perceptron of 10 units, 192 to    near BP, above greedy     ~10 min CPU
                   64 wide, 6 seeds x 3 rates
paper    CIFAR-10  ResNet-32 (or --config.network=   near BP (the published    6-12 h a run of
                   resnet110), 400 epochs, 5 seeds   table 1)                  ResNet-110 on one
                                                                               accelerator
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

import trove_jax
from trove_jax.evidence import Claim, Evidence, Figure, System

SYSTEM = System(
    number=27,
    title="Local learning with augmented auxiliary networks",
    paper="Ma et al., Scaling Supervised Local Learning with Augmented Auxiliary Networks, "
    "ICLR 2024, arXiv 2402.17318",
    url="https://arxiv.org/abs/2402.17318",
)

_claim = functools.partial(
    Claim, setting="a perceptron of 10 units on MNIST-5k instead of ResNet-32 on CIFAR-10"
)
_deep = functools.partial(_claim, treatment="auglocal_deep")
_points = {"metric": "accuracy", "unit": "points"}

CLAIMS = (
    _deep(
        id="C1-bp",
        statement="Trained unit by unit, the network loses less than 2 points of the accuracy of "
        "end-to-end training.",
        baseline="bp",
        margin=-2.0,
        paper="comparable accuracy with 16 and 55 local parts",
        **_points,
    ),
    _deep(
        id="C2-memory",
        statement="A training step needs at most 0.65 of the temporary memory of end-to-end "
        "training.",
        metric="temporary_mib",
        baseline="bp",
        better="lower",
        kind="ratio",
        margin=0.65,
        unit="MiB",
        paper="about 40 % less GPU memory",
    ),
    _claim(
        id="C3-greedy",
        statement="One later unit in each auxiliary network is more accurate than a linear head.",
        treatment="auglocal_shallow",
        baseline="greedy",
        paper="AugLocal above all local baselines (no number quoted here)",
        **_points,
    ),
    _deep(
        id="C3-depth",
        statement="Deeper auxiliary networks are more accurate than those of one unit.",
        baseline="auglocal_shallow",
        paper="accuracy rises with the depth",
        **_points,
    ),
    _deep(
        id="C3-dgl",
        statement="AugLocal is more accurate than decoupled greedy learning.",
        baseline="dgl",
        paper="AugLocal above InfoPro above DGL above PredSim",
        **_points,
    ),
    _claim(
        id="C3-predsim",
        statement="Decoupled greedy learning is more accurate than similarity matching.",
        treatment="dgl",
        baseline="predsim",
        paper="AugLocal above InfoPro above DGL above PredSim",
        **_points,
    ),
    _deep(
        id="C3-infopro",
        statement="AugLocal is more accurate than information propagation.",
        baseline="infopro",
        paper="AugLocal above InfoPro above DGL above PredSim",
        **_points,
    ),
    _deep(
        id="C4-next",
        statement="Evenly chosen later units are more accurate than as many next units.",
        baseline="next_deep",
        paper="uniform selection is best in the ablation",
        **_points,
    ),
    _deep(
        id="C4-last",
        statement="Evenly chosen later units are more accurate than as many last units.",
        baseline="last_deep",
        paper="uniform selection is best in the ablation",
        **_points,
    ),
    _deep(
        id="C5-pyramid",
        statement="Depths that shrink towards the end lose less than 0.5 points against a "
        "constant depth.",
        baseline="constant_deep",
        margin=-0.5,
        paper="keeps accuracy with fewer operations",
        **_points,
    ),
    _deep(
        id="C6-cka",
        statement="What the hidden units represent is closer to their end-to-end trained twin "
        "than under greedy training.",
        metric="cka",
        baseline="greedy",
        paper="curves over layers (linear CKA)",
    ),
    _deep(
        id="C6-early",
        statement="Early units are less linearly separable than under greedy training.",
        metric="early_probe",
        baseline="greedy",
        better="lower",
        unit="points",
        paper="curves of linear probes over layers",
    ),
    _deep(
        id="C6-late",
        statement="Late units are more linearly separable than under greedy training.",
        metric="late_probe",
        baseline="greedy",
        unit="points",
        paper="curves of linear probes over layers",
    ),
)


def get_config(preset: str) -> ml_collections.ConfigDict:
    """The settings of a preset."""
    return ml_collections.ConfigDict(
        {"smoke": _smoke, "laptop": _laptop, "paper": _paper}[preset]()
    )


_ARMS = (
    "bp",
    "greedy",
    "dgl",
    "predsim",
    "auglocal_shallow",
    "auglocal_middle",
    "auglocal_deep",
    "next_deep",
    "last_deep",
    "constant_deep",
)


def _laptop(**changes: Any) -> dict[str, Any]:
    return {
        "seeds": 6,
        "data": "mnist_5k",
        "network": "mlp",
        "widths": (192, 192, 160, 160, 128, 128, 96, 96, 64, 64),
        "norm": "batch",
        "arms": _ARMS,
        "depths": (1, 2, 4),
        "coefficient": 0.5,
        "learning_rates": (0.03, 0.1, 0.3),
        "validation": 0.15,
        "weight_decay": 1e-4,
        "batch_size": 64,
        "epochs": 12,
        "augment": False,
        # What is analysed beside accuracy, and at which sizes.
        "analysed": ("greedy", "dgl", "auglocal_deep"),
        "analysed_examples": 1000,
        "memory_batch": 1024,
        **changes,
    }


def _smoke() -> dict[str, Any]:
    return _laptop(
        seeds=2,
        data="digits",
        widths=(16, 16, 16),
        norm=None,
        arms=("bp", "greedy", "auglocal_deep"),
        depths=(1, 1, 2),
        learning_rates=(0.1, 0.3),
        epochs=2,
        analysed=("greedy", "auglocal_deep"),
        analysed_examples=200,
        memory_batch=256,
    )


def _paper() -> dict[str, Any]:
    return _laptop(
        seeds=5,
        data="cifar10",
        network="resnet32",
        arms=(*_ARMS, "infopro"),
        depths=(1, 2, 4),
        learning_rates=(0.8,),
        validation=0.0,
        batch_size=1024,
        epochs=400,
        augment=True,
        analysed=("greedy", "dgl", "predsim", "infopro", "auglocal_deep"),
    )


def data_sets(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Names of the data sets that a configuration reads."""
    return (config.data,)


def plan(config: ml_collections.ConfigDict) -> list[trove_jax.core.StagePlan]:
    """The training runs that a configuration asks for."""
    _check(config)
    # Tracing an arm takes seconds; one of the largest stands for all.
    largest = [arm for arm in ("auglocal_deep", "constant_deep") if arm in config.arms]
    return [
        trove_jax.core.plan_stage(
            f"{len(config.arms)} arms, at most",
            _task(config, (*config.arms[-1:], *largest)[-1]),
            _optimiser(config),
            runs=len(config.arms),
            seeds=config.seeds * len(config.learning_rates),
            steps=_steps(config),
        )
    ]


def run(config: ml_collections.ConfigDict, context: Any) -> Evidence:
    """Trains all arms and gathers what the claims compare."""
    _check(config)
    images = trove_jax.data.load_inputs(config.data, data_dir=context.data_dir)
    train, validation = _split(config, images.train)
    # Auxiliary networks are dropped, so one task measures all arms.
    bare = _task(config, "bp", images.prepare)
    analyse = _analysis(config, images, train)
    arms, curves, notes, twin = {}, {}, [], None
    for arm in config.arms:
        task = bare if arm == "bp" else _task(config, arm, images.prepare)
        lanes = _train(config, context, arm, task, train)
        chosen, rate = _choose(config, bare, lanes, validation)
        twin = chosen if arm == "bp" else twin
        accuracy = trove_jax.core.evaluate_seeds(bare, chosen, images.test)["accuracy"]
        arms[arm] = {"accuracy": _list(100.0 * accuracy)}
        notes.append(f"{arm}: learning rate {rate} is best on the validation images.")
        if arm in ("bp", *config.analysed):
            cka, probes = (np.asarray(values, np.float64) for values in analyse(chosen, twin))
            third = max(probes.shape[1] // 3, 1)
            curves[arm] = {"cka": cka, "probe": 100.0 * probes}
            arms[arm] |= {
                "temporary_mib": [_temporary_mib(config, task)] * config.seeds,
                "cka": _list(cka.mean(axis=1)),
                "early_probe": _list(100.0 * probes[:, :third].mean(axis=1)),
                "late_probe": _list(100.0 * probes[:, -third:].mean(axis=1)),
            }
    return Evidence(
        arms=arms,
        figures=_figures(curves),
        data=[images.provenance],
        notes=[
            *(notes if len(config.learning_rates) > 1 else ()),
            f"Temporary memory is that of a compiled step of {config.memory_batch} examples, as "
            "the compiler reports it: it is the same for all seeds.",
            "CKA and probes are of the outputs of all units but the last; early and late are the "
            "first and the last third of them.",
        ],
        curves={arm: {k: v.tolist() for k, v in values.items()} for arm, values in curves.items()},
        not_tested={
            claim.id: f"the arm {missing[0]} is not part of this preset"
            for claim in CLAIMS
            if (missing := [a for a in (claim.treatment, claim.baseline) if a not in arms])
        },
    )


def _train(config, context, arm, task, train):
    """All seeds at all learning rates side by side, `[rates * s, ...]`."""
    core, tx = trove_jax.core, _optimiser(config)
    keys = core.seed_keys(config.seeds)
    lanes = jnp.concatenate([keys] * len(config.learning_rates))
    start = core.init_states(task, tx, lanes)
    rates = jnp.repeat(jnp.asarray(config.learning_rates, jnp.float32), config.seeds)
    opt_state = optax.tree_utils.tree_set(start.opt_state, step_size=rates)
    state, _ = context.train_seeds(
        arm,
        task,
        tx,
        train,
        lanes,
        steps=_steps(config),
        start=start._replace(opt_state=opt_state),
        batch_size=config.batch_size,
    )
    return trove_jax.losses.without_auxiliaries(state.variables)


def _choose(config, task, lanes, validation):
    """The seeds at the learning rate whose mean validation accuracy is best."""
    rates = config.learning_rates
    best = 0
    if len(rates) > 1:
        found = trove_jax.core.evaluate_seeds(task, lanes, validation)["accuracy"]
        best = int(np.argmax(np.asarray(found).reshape(len(rates), -1).mean(axis=1)))
    first = best * config.seeds
    return jax.tree.map(lambda leaf: leaf[first : first + config.seeds], lanes), rates[best]


def _analysis(config, images, train):
    """Makes what measures the hidden units of a network, and their likeness to those of a twin.

    Returns a function from variables of both, `[s, ...]`, to CKA and probe accuracy,
    `[s, hidden units]`.
    """
    analysis, layers = trove_jax.analysis, trove_jax.layers
    module = _chain(config, "bp")
    fit, test = (
        jax.tree.map(lambda leaf: leaf[: config.analysed_examples], part.examples)
        for part in (train, images.test)
    )
    classes = module.head.classes

    @jax.jit
    def measure(variables, twins, fit, test):
        def hidden(one, examples):
            x = images.prepare(examples["image"])
            _, found = layers.capture(module, one, x, filter=r"units_\d+")
            return list(found.values())[:-1]

        def pooled(x):
            return x.mean(axis=tuple(range(1, x.ndim - 1)))

        def one(lane):
            variables, twin = lane
            own, other = hidden(variables, test), hidden(twin, test)
            cka = [analysis.linear_cka(x, y) for x, y in zip(own, other, strict=True)]
            probes = [
                analysis.linear_probe_accuracy(
                    pooled(x), fit["label"], pooled(y), test["label"], classes=classes
                )
                for x, y in zip(hidden(variables, fit), own, strict=True)
            ]
            return jnp.stack(cka), jnp.stack(probes)

        return jax.lax.map(one, (variables, twins))

    return lambda variables, twins: measure(variables, twins, fit, test)


def _temporary_mib(config, task):
    """What a compiled training step reserves beside its arguments and results."""
    core, tx = trove_jax.core, _optimiser(config)
    shape, _ = trove_jax.data.input_shape(config.data)
    state = jax.eval_shape(lambda key: core.init_state(task, tx, key), jax.random.key(0))
    batch = core.Batch(
        {
            "image": jax.ShapeDtypeStruct((config.memory_batch, *shape.shape), jnp.uint8),
            "label": jax.ShapeDtypeStruct((config.memory_batch,), jnp.int32),
        }
    )
    step = jax.jit(functools.partial(core.train_step, task, tx), donate_argnums=0)
    analysis = step.lower(state, batch, jax.random.key(0)).compile().memory_analysis()
    return float(analysis.temp_size_in_bytes / 2**20)


def _figures(curves):
    units = [*range(next(iter(curves.values()))["cka"].shape[1])]
    draw = functools.partial(trove_jax.evidence.curves, units, xlabel="unit")
    return [
        Figure(
            "auglocal_cka",
            "Linear CKA of every hidden unit with the same unit trained end to end.",
            functools.partial(
                draw,
                {arm: values["cka"] for arm, values in curves.items() if arm != "bp"},
                ylabel="CKA",
            ),
        ),
        Figure(
            "auglocal_probes",
            "Accuracy of a linear classifier on every hidden unit.",
            functools.partial(
                draw,
                {arm: values["probe"] for arm, values in curves.items()},
                ylabel="probe accuracy (%)",
            ),
        ),
    ]


def _split(config, train):
    """Training and validation images; without a validation share, all and none."""
    data = trove_jax.data
    if not config.validation:
        return train, None
    parts = data.holdout(
        jax.tree.map(np.asarray, train.examples), fraction=config.validation, seed=0
    )
    return tuple(trove_jax.core.Data(jax.tree.map(jnp.asarray, part)) for part in parts)


def _steps(config):
    size = trove_jax.data.describe(config.data).shapes["x_train"][0]
    kept = size - round(config.validation * size)
    return config.epochs * (kept // config.batch_size)


def _task(config, arm, prepare=None):
    shape, _ = trove_jax.data.input_shape(config.data)
    augment = trove_jax.data.standard_augmentation(config.data) if config.augment else None
    return trove_jax.losses.local_learning(
        _chain(config, arm), shape, augment=augment, prepare=prepare
    )


def _chain(config, arm):
    return trove_jax.models.local_chain(*_network(config), _rule(config, arm))


def _network(config):
    models = trove_jax.models
    _, classes = trove_jax.data.input_shape(config.data)
    if config.network == "mlp":
        return models.mlp_units(config.widths, classes=classes, norm=config.norm)
    blocks = {"resnet32": 5, "resnet110": 18}[config.network]
    # N(0, 2 / (k^2 c_out)), as published for the convolutions.
    init = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    units, _ = models.resnet_units((blocks,) * 3, classes=classes, kernel_init=init)
    return units, models.PoolHead(classes)


def _rule(config, arm):
    layers = trove_jax.layers
    shallow, middle, deep = config.depths
    shape, _ = trove_jax.data.input_shape(config.data)
    c = config.coefficient
    return {
        "bp": layers.bp,
        "greedy": layers.greedy,
        "dgl": layers.dgl,
        "predsim": layers.predsim,
        "infopro": lambda: layers.infopro(size=shape.shape[0], channels=shape.shape[2]),
        "auglocal_shallow": lambda: layers.auglocal(shallow, c),
        "auglocal_middle": lambda: layers.auglocal(middle, c),
        "auglocal_deep": lambda: layers.auglocal(deep, c),
        "next_deep": lambda: layers.auglocal(deep, c, select="next"),
        "last_deep": lambda: layers.auglocal(deep, c, select="last"),
        "constant_deep": lambda: layers.auglocal(deep, 0.0),
    }[arm]()


def _optimiser(config):
    """SGD with Nesterov momentum and cosine decay; the rate is in the state, one per lane."""
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(optax.cosine_decay_schedule(1.0, _steps(config)), momentum=0.9, nesterov=True),
        optax.inject_hyperparams(optax.scale)(step_size=1.0),
    )


def _check(config):
    """Refuses what no run could use."""
    error = trove_jax.core.UsageError
    networks = ("mlp", "resnet32", "resnet110")
    if config.network not in networks:
        raise error(f"network={config.network!r} is none of {', '.join(networks)}")
    known = (*_ARMS, "infopro")
    for name in ("arms", "analysed"):
        for arm in config[name]:
            if arm not in known:
                raise error(f"{name} names {arm!r}; the arms are {', '.join(known)}")
    if config.arms[:1] != ("bp",):
        raise error(f"arms={config.arms} must begin with 'bp', which others are compared with")
    if len(config.learning_rates) > 1 and not config.validation:
        raise error("several learning_rates are chosen on validation images; set validation > 0")


def _list(values):
    return [float(value) for value in values]
