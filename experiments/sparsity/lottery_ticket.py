"""Stabilizing the lottery ticket hypothesis: does rewinding to an early step make tickets work?

    python -m launch.run --experiment=lottery_ticket --preset=laptop

Two parts. `tickets` prunes LeNet iteratively from step 0 and asks whether the winning tickets are
more accurate and more stable than random ones. `rewinding` prunes a deeper network, at a learning
rate at which step 0 fails, and asks what rewinding to step k changes.

preset   data                        networks                       expected        time
smoke    digits                      small perceptrons              runs at all     seconds
laptop   MNIST-5k                    LeNet-300-100, residual MLP    see README      6 min CPU
paper    MNIST, CIFAR-10 / ImageNet  LeNet, ResNet-20 (VGG-19 or    90 % at 16.7 %  ~10 h on one
                                     ResNet-50: --config.network=)  (k = 500)       accelerator
"""

import functools
import itertools
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

import trove_jax
from trove_jax.evidence import Claim, Evidence, Figure, System

SYSTEM = System(
    number=1,
    title="Iterative magnitude pruning with rewinding",
    paper="Frankle et al., Stabilizing the Lottery Ticket Hypothesis, 2019, arXiv 1903.01611",
    url="https://arxiv.org/abs/1903.01611",
)

_ticket = functools.partial(
    Claim, treatment="ticket_imp", setting="MNIST-5k instead of MNIST, 700 steps instead of 50,000"
)
_rewound = functools.partial(
    Claim,
    setting="a residual MLP with batch-norm on MNIST-5k instead of Resnet-18 on CIFAR-10, one-shot "
    "pruning to 5 % instead of 8 rounds to 16.7 %",
)
_points = {"metric": "accuracy", "unit": "points"}

CLAIMS = (
    _ticket(
        id="C3-dense",
        statement="A winning ticket of LeNet loses less than 0.7 points of the dense accuracy.",
        baseline="ticket_dense",
        margin=-0.7,
        paper="98.3 against 98.0 +- 0.2 % (LeNet, MNIST, 10.7 % of the weights)",
        **_points,
    ),
    _ticket(
        id="C3-random",
        statement="A winning ticket beats a random mask of the same layer densities by 1.5 points.",
        baseline="ticket_random",
        margin=1.5,
        paper="98.3 against 97.5 %",
        **_points,
    ),
    _ticket(
        id="C3-reinit",
        statement="A winning ticket beats its own mask on fresh initial weights by 1.5 points.",
        baseline="ticket_reinit",
        margin=1.5,
        paper="reinitialised tickets fall behind with every round (no number printed)",
        **_points,
    ),
    _ticket(
        id="C3-order",
        statement="A winning ticket moves at most 0.6 times as far as a random mask when the order "
        "of the data changes.",
        metric="order_distance",
        baseline="ticket_random",
        better="lower",
        kind="ratio",
        margin=0.6,
        paper="20.7 against 58.6, a ratio of 0.35",
    ),
    _ticket(
        id="C3-pruning",
        statement="Pruning moves a winning ticket at most 0.7 times as far from the dense solution "
        "as it moves a random mask.",
        metric="pruning_distance",
        baseline="ticket_random",
        better="lower",
        kind="ratio",
        margin=0.7,
        paper="48.1 against 75.7, a ratio of 0.64",
    ),
    _rewound(
        id="C1-rewinding",
        statement="Rewinding to an early step is more accurate than rewinding to step 0, at a "
        "learning rate at which step 0 fails.",
        treatment="imp_early",
        baseline="imp_0",
        paper="k = 500 matches the dense 90.5 %; k = 0 reaches 87.7 %",
        **_points,
    ),
    _rewound(
        id="C1-dense",
        statement="Rewound to an early step, the subnetwork loses less than 0.7 points of the "
        "dense accuracy.",
        treatment="imp_early",
        baseline="dense",
        margin=-0.7,
        paper="k = 500 matches the dense 90.5 %",
        **_points,
    ),
    _rewound(
        id="C4-no-gap",
        statement="Where step 0 fails, the ticket is hardly more stable than a random mask: its "
        "angle under another order of the data is at least 0.8 times the random mask's.",
        metric="order_angle",
        treatment="imp_0",
        baseline="random_0",
        kind="ratio",
        margin=0.8,
        paper="distances 66.4 and 66.7, a ratio of 1.0",
    ),
    _rewound(
        id="C4-gap",
        statement="Where step 0 works, thanks to a low learning rate, the ticket is clearly more "
        "stable: at most 0.8 times the random mask's angle.",
        metric="order_angle",
        treatment="low_lr_imp_0",
        baseline="low_lr_random_0",
        better="lower",
        kind="ratio",
        margin=0.8,
        paper="distances 7.1 and 28.9, a ratio of 0.25",
    ),
    _rewound(
        id="C5-order",
        statement="Rewinding to an early step makes the ticket more stable to the order of the "
        "data, by more than it does for a random mask.",
        metric="order_angle_drop",
        treatment="imp_early",
        baseline="random_early",
        unit="degrees",
        paper="curves over k; fastest within the first 500 steps",
    ),
    _rewound(
        id="C5-pruning",
        statement="Rewinding to an early step makes the ticket more stable to pruning, by more "
        "than it does for a random mask.",
        metric="pruning_angle_drop",
        treatment="imp_early",
        baseline="random_early",
        unit="degrees",
        paper="curves over k; fastest within the first 500 steps",
    ),
    _rewound(
        id="C6-late",
        statement="Rewinding very late is less accurate than rewinding early.",
        treatment="imp_late",
        baseline="imp_early",
        better="lower",
        paper="accuracy falls again at the latest rewinding points",
        **_points,
    ),
)


def get_config(preset: str) -> ml_collections.ConfigDict:
    """The settings of a preset."""
    return ml_collections.ConfigDict(
        {"smoke": _smoke, "laptop": _laptop, "paper": _paper}[preset]()
    )


def _tickets(**changes: Any) -> dict[str, Any]:
    return {
        "data": "mnist_5k",
        "features": (300, 100),
        "learning_rate": 1.2e-3,
        "batch_size": 60,
        "steps": 700,
        "rounds": 10,
        "rate": 0.2,
        "output_rate": 0.1,
        "shown_rounds": (3, 6, 8, 10),
        "orders": 3,
        **changes,
    }


def _rewinding(**changes: Any) -> dict[str, Any]:
    return {
        "data": "mnist_5k",
        "learning_rate": 0.4,
        "low_learning_rate": 0.1,
        "drops": (2 / 3, 5 / 6),
        "warmup": 0,
        "weight_decay": 1e-4,
        "batch_size": 64,
        "steps": 500,
        "one_shot": True,
        "rounds": 1,
        "rate": 0.95,
        "k": (0, 5, 15, 50, 125),
        "early": 15,
        "late": 125,
        "orders": 2,
        "augment": False,
        "evaluation": "batch",
        **changes,
    }


def _residual_mlp(**changes: Any) -> dict[str, Any]:
    return _rewinding(
        **{
            "width": 160,
            "blocks": 4,
            # 1e-5 let the gradient of units that wake from a constant state explode: one seed in
            # ten broke down at learning rate 0.4.
            "norm_epsilon": 1e-3,
            **changes,
        }
    )


def _smoke() -> dict[str, Any]:
    return {
        "seeds": 2,
        "network": "residual_mlp",
        "tickets": _tickets(
            data="digits", features=(32, 16), steps=40, rounds=2, shown_rounds=(1, 2), orders=2
        ),
        "rewinding": {
            "residual_mlp": _residual_mlp(
                data="digits", width=16, blocks=1, steps=40, k=(0, 4, 20), early=4, late=20
            )
        },
    }


def _laptop() -> dict[str, Any]:
    return {
        "seeds": 10,
        "network": "residual_mlp",
        "tickets": _tickets(),
        "rewinding": {"residual_mlp": _residual_mlp()},
    }


def _paper() -> dict[str, Any]:
    cifar = {
        "data": "cifar10",
        "one_shot": False,
        "rate": 0.2,
        "augment": True,
        "evaluation": "running",
    }
    return {
        "seeds": 5,
        "network": "resnet20",
        "tickets": _tickets(data="mnist", steps=50_000),
        "rewinding": {
            "resnet20": _rewinding(
                **cifar,
                width=16,
                learning_rate=0.1,
                low_learning_rate=0.01,
                batch_size=128,
                steps=30_000,
                rounds=8,
                k=(0, 100, 500, 2000, 15_000),
                early=500,
                late=15_000,
            ),
            "vgg19": _rewinding(
                **cifar,
                learning_rate=0.1,
                low_learning_rate=0.01,
                drops=(1 / 2, 3 / 4),
                steps=112_000,
                rounds=17,
                k=(0, 100, 1000, 56_000),
                early=100,
                late=56_000,
            ),
            "resnet50": _rewinding(
                data="imagenet",
                learning_rate=0.4,
                low_learning_rate=0.04,
                drops=(1 / 3, 2 / 3, 8 / 9),
                warmup=6255,
                batch_size=1024,
                steps=112_590,
                rate=0.7,
                k=(0, 5004, 56_295),
                early=5004,
                late=56_295,
                augment=True,
                evaluation="running",
            ),
        },
    }


def data_sets(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Names of the data sets that a configuration reads."""
    return tuple(dict.fromkeys([config.tickets.data, _chosen(config).data]))


def plan(config: ml_collections.ConfigDict) -> list[trove_jax.core.StagePlan]:
    """The training runs that a configuration asks for."""
    core = trove_jax.core
    tickets, rewinding = config.tickets, _chosen(config)
    per_shown = (tickets.orders - 1) + tickets.orders + 1
    per_k = 2 * rewinding.orders + (0 if rewinding.one_shot else rewinding.rounds - 1)
    return [
        core.plan_stage(
            "winning tickets",
            *_ticket_task(tickets),
            runs=1 + tickets.rounds + len(tickets.shown_rounds) * per_shown,
            seeds=config.seeds,
            steps=tickets.steps,
        ),
        core.plan_stage(
            "rewinding",
            _rewinding_task(config.network, rewinding),
            _optimiser(rewinding, rewinding.learning_rate),
            runs=2 + (len(rewinding.k) + 1) * (per_k + 1),
            seeds=config.seeds,
            steps=rewinding.steps,
        ),
    ]


def pod_step(config: ml_collections.ConfigDict) -> trove_jax.core.PodStep:
    """The step of the second part, `rewinding`, for compiling it for a pod."""
    settings = _chosen(config)
    images = trove_jax.data.abstract_inputs(settings.data)
    optimiser = _optimiser(settings, settings.learning_rate)
    return trove_jax.core.PodStep(
        f"{config.network} on {settings.data}",
        _rewinding_task(config.network, settings, images.prepare),
        trove_jax.transforms.masked(optimiser, prunable=_all_but_output),
        images.train,
        settings.batch_size,
        config.seeds,
        streams=trove_jax.data.describe(settings.data).is_folder,
    )


def run(config: ml_collections.ConfigDict, context: Any) -> Evidence:
    """Trains all arms and gathers what the claims compare."""
    keys = trove_jax.core.seed_keys(config.seeds)
    tickets = _run_tickets(config.tickets, context, keys)
    rewinding = _run_rewinding(config.network, _chosen(config), context, keys)
    return Evidence(
        arms={**tickets.arms, **rewinding.arms},
        figures=[*tickets.figures, *rewinding.figures],
        data=list({d["name"]: d for d in [*tickets.data, *rewinding.data]}.values()),
        notes=[*tickets.notes, *rewinding.notes],
        curves={**tickets.curves, **rewinding.curves},
    )


def _run_tickets(settings, context, keys) -> Evidence:
    """Iterative pruning from step 0, against random masks and fresh weights at equal density."""
    search = trove_jax.search
    images = trove_jax.data.load_inputs(settings.data, data_dir=context.data_dir)
    task, tx = _ticket_task(settings, images.prepare)
    training = search.masked_training(
        task,
        tx,
        images.train,
        steps=settings.steps,
        batch_size=settings.batch_size,
        train_seeds=context.train_seeds,
    )
    measure = _accuracy_of(task, images.test)
    found = search.imp(
        training.train,
        training.init,
        keys,
        rounds=settings.rounds,
        rate=settings.rate,
        scope="layerwise",
        rates={"output": settings.output_rate},
        evaluate=measure,
        stage="tickets/imp",
    )
    dense = _round(found.variables, 0)
    fresh = training.init(_fold(keys, 1))
    arms = ("ticket_imp", "ticket_random", "ticket_reinit")
    curves = {arm: [] for arm in arms}
    for number in settings.shown_rounds:
        mask = _round(found.masks, number)
        random = _random_mask(_fold(keys, 2), mask)
        stage = f"tickets/round_{number:02d}"
        stability = functools.partial(
            _stability, training.train, found.rewound, keys=keys, orders=settings.orders
        )
        imp_end, imp = stability(
            mask, dense=dense, stage=f"{stage}/imp", own=_round(found.variables, number)
        )
        random_end, control = stability(random, dense=dense, stage=f"{stage}/random")
        reinit_end = training.train(fresh, mask, keys, stage=f"{stage}/reinit").variables
        curves["ticket_imp"].append({**measure(imp_end), **imp})
        curves["ticket_random"].append({**measure(random_end), **control})
        curves["ticket_reinit"].append(measure(reinit_end))
    densities = found.densities[0, list(settings.shown_rounds)]
    last = {arm: _lists(points[-1]) for arm, points in curves.items()}
    dense_accuracy = found.metrics["accuracy"][:, 0]
    return Evidence(
        arms={"ticket_dense": _lists({"accuracy": dense_accuracy}), **last},
        figures=[
            Figure(
                "tickets_accuracy",
                "LeNet: test accuracy against the share of weights left.",
                functools.partial(
                    trove_jax.evidence.curves,
                    100 * densities,
                    {arm: _over_points(points, "accuracy") for arm, points in curves.items()},
                    xlabel="weights left (%)",
                    ylabel="test accuracy (%)",
                    log_x=True,
                    lines={"dense": float(dense_accuracy.mean())},
                ),
            ),
            Figure(
                "tickets_stability",
                "LeNet: distance between two copies trained on different orders of the data.",
                functools.partial(
                    trove_jax.evidence.curves,
                    100 * densities,
                    {arm: _over_points(curves[arm], "order_distance") for arm in arms[:2]},
                    xlabel="weights left (%)",
                    ylabel="distance",
                    log_x=True,
                ),
            ),
        ],
        data=[images.provenance],
        notes=[
            f"Tickets are compared at {densities[-1]:.1%} of the weights, after "
            f"{settings.shown_rounds[-1]} of {settings.rounds} rounds."
        ],
        curves={"ticket_densities": densities},
    )


def _run_rewinding(network, settings, context, keys) -> Evidence:
    """A sweep over the rewinding step k at a high learning rate, and k = 0 at a low one."""
    images = trove_jax.data.load_inputs(settings.data, data_dir=context.data_dir)
    task = _rewinding_task(network, settings, images.prepare)
    sweep = functools.partial(_sweep, settings, context, task, images, keys)
    high = sweep(learning_rate=settings.learning_rate, ks=settings.k, stage="rewinding")
    low = sweep(learning_rate=settings.low_learning_rate, ks=(0,), stage="low_lr")
    names = {settings.early: "early", settings.late: "late"}
    arms = {"dense": _lists(high["dense"]), "low_lr_dense": _lists(low["dense"])}
    for kind in ("imp", "random"):
        arms[f"low_lr_{kind}_0"] = _lists(low[kind][0])
        for k, point in zip(settings.k, high[kind], strict=True):
            drops = {
                f"{measure}_drop": high[kind][0][measure] - point[measure]
                for measure in ("order_angle", "pruning_angle")
            }
            arms[f"{kind}_{names.get(k, k)}"] = _lists({**point, **drops})
    ratio = (high["imp"][0]["order_angle"] / high["random"][0]["order_angle"]).mean()
    figure = functools.partial(
        trove_jax.evidence.curves, settings.k, xlabel="rewinding step k", log_x=False
    )
    curves = {
        name: {kind: _over_points(high[kind], name) for kind in ("imp", "random")}
        for name in ("accuracy", "order_angle", "pruning_angle")
    }
    return Evidence(
        arms=arms,
        figures=[
            Figure(
                "rewinding_accuracy",
                "Test accuracy of the sparse networks against the step that they are rewound to.",
                functools.partial(
                    figure,
                    curves["accuracy"],
                    ylabel="test accuracy (%)",
                    lines={"dense": float(high["dense"]["accuracy"].mean())},
                ),
            ),
            Figure(
                "rewinding_order_angle",
                "Angle between two copies of a sparse network trained on different orders.",
                functools.partial(figure, curves["order_angle"], ylabel="angle (degrees)"),
            ),
            Figure(
                "rewinding_pruning_angle",
                "Angle between a sparse network and the dense one trained from the same step k.",
                functools.partial(figure, curves["pruning_angle"], ylabel="angle (degrees)"),
            ),
        ],
        data=[images.provenance],
        notes=[
            f"Regime: at k = 0 and learning rate {settings.learning_rate} the ticket's order angle "
            f"is {ratio:.2f} times the random mask's; near 1 means that step 0 fails, as the "
            "claims C1 and C4 suppose, well below 1 that the network is stable from the start.",
            "Batch-norm statistics are "
            + (
                "those of the whole test set."
                if settings.evaluation == "batch"
                else "running averages."
            ),
        ],
        curves={"k": settings.k, **{f"k_{name}": value for name, value in curves.items()}},
    )


def _sweep(settings, context, task, images, keys, *, learning_rate, ks, stage) -> dict[str, Any]:
    """Prunes from several rewinding steps; each point measures accuracy and both stabilities."""
    search = trove_jax.search
    training = search.masked_training(
        task,
        _optimiser(settings, learning_rate),
        images.train,
        steps=settings.steps,
        batch_size=settings.batch_size,
        train_seeds=context.train_seeds,
        prunable=_all_but_output,
    )
    measure = _accuracy_of(task, images.test)
    stability = functools.partial(_stability, training.train, keys=keys, orders=settings.orders)
    start, dense = training.init(keys), None
    points = {"imp": [], "random": []}
    for k in ks:
        at_k = f"{stage}/k_{k}"
        found = search.imp(
            training.train,
            lambda _, start=start: start,
            keys,
            rounds=settings.rounds,
            rewind=k,
            rate=settings.rate,
            one_shot=settings.one_shot,
            evaluate=measure,
            dense=dense,
            stage=f"{at_k}/imp",
        )
        start, dense, mask = found.rewound, _round(found.variables, 0), _round(found.masks, -1)
        dense_from_k = dense
        if k:
            everything = jax.tree.map(np.ones_like, mask)
            dense_from_k = training.train(start, everything, keys, stage=f"{at_k}/dense").variables
        own = _round(found.variables, -1)
        masks = {"imp": (mask, own), "random": (_random_mask(_fold(keys, 2), mask), None)}
        for kind, (kept, own) in masks.items():
            end, measured = stability(
                start, kept, dense=dense_from_k, own=own, stage=f"{at_k}/{kind}"
            )
            points[kind].append({**measure(end), **measured})
    return {"dense": measure(dense), **points}


def _stability(train, start, mask, *, keys, orders, dense, stage, own=None):
    """Trains copies on different orders of the data; measures how far they and the dense net are.

    Returns the variables of the first copy, and distances and angles, `[s]` each.
    """
    copies = [own or train(start, mask, keys, stage=f"{stage}/order_0").variables]
    for number in range(1, orders):
        order = _fold(keys, 10 + number)
        copies.append(train(start, mask, order, stage=f"{stage}/order_{number}").variables)
    pairs = [_apart(a, b, mask) for a, b in itertools.combinations(copies, 2)]
    distance, angle = (np.mean(values, axis=0) for values in zip(*pairs, strict=True))
    pruning_distance, pruning_angle = _apart(dense, copies[0], mask)
    return copies[0], {
        "order_distance": distance,
        "order_angle": angle,
        "pruning_distance": pruning_distance,
        "pruning_angle": pruning_angle,
    }


@jax.jit
@jax.vmap
def _apart(a, b, mask):
    analysis = trove_jax.analysis
    a, b = a["params"], b["params"]
    return analysis.masked_distance(a, b, mask), analysis.masked_angle(a, b, mask)


@jax.jit
@jax.vmap
def _random_mask(key, mask):
    return trove_jax.transforms.random_mask(key, mask, mode="layerwise")


def _fold(keys, number):
    """Other keys for the same seeds."""
    return jax.vmap(lambda key: jax.random.fold_in(key, 1000 + number))(keys)


def _accuracy_of(task, test):
    """Measures accuracy in percent, one number per seed."""

    def measure(variables):
        found = trove_jax.core.evaluate_seeds(task, variables, test)
        return {"accuracy": 100.0 * np.asarray(found["accuracy"])}

    return measure


def _round(stacked, number):
    """One round of what `search.imp` stacked, `[s, r, ...] -> [s, ...]`."""
    return jax.tree.map(lambda leaf: leaf[:, number], stacked)


def _lists(metrics):
    return {name: [float(x) for x in values] for name, values in metrics.items()}


def _over_points(points, name):
    """A metric over a list of measured points, `[s, points]`."""
    return np.stack([point[name] for point in points], axis=1)


def _all_but_output(path, leaf):
    return trove_jax.transforms.is_kernel(path, leaf) and not path.startswith("output/")


def _chosen(config):
    """The settings of the network whose rewinding is tested."""
    if config.network not in config.rewinding:
        raise trove_jax.core.UsageError(
            f"network={config.network!r} is none of {', '.join(config.rewinding)}"
        )
    settings = config.rewinding[config.network]
    for name in ("early", "late"):
        if settings[name] not in settings.k:
            raise trove_jax.core.UsageError(f"{name}={settings[name]} is not in k={settings.k}")
    if settings.k[0] != 0 or list(settings.k) != sorted(settings.k):
        raise trove_jax.core.UsageError(f"k={settings.k} must rise from 0")
    return settings


def _ticket_task(settings, prepare=None):
    """LeNet (or a smaller perceptron) with Adam at a constant rate."""
    shape, classes = trove_jax.data.input_shape(settings.data)
    module = trove_jax.models.MLP((*settings.features, classes))
    task = trove_jax.losses.classification(module, shape, prepare=prepare)
    return task, optax.adam(settings.learning_rate)


def _rewinding_task(network, settings, prepare=None):
    """Classification by a network with batch-norm."""
    data, models = trove_jax.data, trove_jax.models
    shape, classes = data.input_shape(settings.data)
    module = {
        "residual_mlp": lambda: models.residual_mlp(
            width=settings.width,
            blocks=settings.blocks,
            classes=classes,
            epsilon=settings.norm_epsilon,
        ),
        "resnet20": lambda: models.cifar_resnet(20, width=settings.width, classes=classes),
        "vgg19": lambda: models.cifar_vgg(19, classes=classes),
        "resnet50": lambda: models.resnet50(classes=classes),
    }[network]()
    return trove_jax.losses.classification(
        module,
        shape,
        augment=data.standard_augmentation(settings.data) if settings.augment else None,
        prepare=prepare,
        evaluation=settings.evaluation,
    )


def _optimiser(settings, learning_rate):
    return trove_jax.transforms.momentum_sgd(
        learning_rate,
        weight_decay=settings.weight_decay,
        drops={int(share * settings.steps): 0.1 for share in settings.drops},
        warmup=settings.warmup,
    )
