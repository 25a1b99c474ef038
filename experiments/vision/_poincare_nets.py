"""The part of the Poincare ResNet experiment that trains networks of images and compares them."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trove_jax
from trove_jax.evidence import Evidence

# How many images are scored at a time.
_BLOCK = 500


class Images:
    """One image set, the networks that learn it, and what they are measured by.

    Args:
      settings: of this set, as in the configuration.
    """

    def __init__(self, settings: Any):
        self.settings = settings
        stored, self.classes = trove_jax.data.input_shape(settings.data)
        side = (stored.shape[0] + 2 * settings.border) // settings.shrink
        self.shape = jax.ShapeDtypeStruct((side, side, stored.shape[2]), jnp.float32)

    @property
    def steps(self) -> int:
        """Steps of one training run."""
        settings = self.settings
        size = settings.train or trove_jax.data.describe(settings.data).shapes["x_train"][0]
        return settings.epochs * ((size - round(settings.validation * size)) // settings.batch_size)

    def network(self, arm: str) -> Any:
        """The module of an arm."""
        models, settings = trove_jax.models, self.settings
        options = {"widths": settings.widths, "classes": self.classes}
        on_ball = {"curvature": settings.curvature, **options}
        return {
            "poincare": lambda: models.poincare_resnet(settings.depth, **on_ball),
            "frechet": lambda: models.poincare_resnet(settings.depth, mean="frechet", **on_ball),
            "euclidean": lambda: models.euclidean_twin(settings.depth, **options),
            "head": lambda: models.euclidean_twin(settings.depth, hyperbolic_head=True, **on_ball),
        }[arm]()

    def task(self, arm: str) -> trove_jax.core.Task:
        """The task of an arm."""
        augment = None
        if self.settings.augment:
            augment = trove_jax.data.standard_augmentation(self.settings.data)
        return trove_jax.losses.classification(
            self.network(arm), self.shape, augment=augment, prepare=self.prepare
        )

    def prepare(self, images: jax.Array) -> jax.Array:
        """Pixels to [-1, 1], with a border of the darkest value, and the mean of each square."""
        settings = self.settings
        half = [settings.white / 510] * images.shape[-1]
        x = trove_jax.data.standardize(images, mean=half, std=half)
        if settings.border:
            edge = (settings.border, settings.border)
            x = jnp.pad(x, ((0, 0), edge, edge, (0, 0)), constant_values=-1.0)
        if settings.shrink > 1:
            square = (settings.shrink, settings.shrink)
            x = trove_jax.layers.avg_pool(x, square, strides=square)
        return x

    def optimiser(self) -> optax.GradientTransformation:
        """Adam with L2 added to the gradient; the rate is in the state, one for each lane."""
        return optax.chain(
            optax.add_decayed_weights(self.settings.weight_decay),
            optax.adam(1.0),
            optax.inject_hyperparams(optax.scale)(step_size=1.0),
        )

    def data(self, data_dir: Any) -> tuple[Any, Any, trove_jax.core.Data, dict[str, Any]]:
        """Training, validation and test images, and where they come from."""
        data, core, settings = trove_jax.data, trove_jax.core, self.settings
        images = data.load_images(settings.data, data_dir=data_dir)
        train = jax.tree.map(lambda leaf: leaf[: settings.train or None], images.train)
        test = jax.tree.map(lambda leaf: leaf[: settings.test or None], images.test)
        validation = None
        if settings.validation:
            train, validation = data.holdout(train, fraction=settings.validation, seed=0)
        parts = (
            None if part is None else core.Data(jax.tree.map(jnp.asarray, part))
            for part in (train, validation, test)
        )
        return (*parts, images.provenance)


def train(images: Images, arm: str, context: Any, data: Any, *, stage: str, seeds: int) -> Any:
    """All seeds at all learning rates side by side.

    Args:
      images: the image set.
      arm: name of the network.
      context: what the experiment runs in.
      data: training images.
      stage: name of the training run.
      seeds: number of seeds, s.

    Returns:
      Variables, `[rates * s, ...]`.
    """
    core, settings = trove_jax.core, images.settings
    task, tx = images.task(arm), images.optimiser()
    rates = settings.learning_rates
    lanes = jnp.concatenate([core.seed_keys(seeds)] * len(rates))
    start = core.init_states(task, tx, lanes)
    step_size = jnp.repeat(jnp.asarray(rates, jnp.float32), seeds)
    opt_state = optax.tree_utils.tree_set(start.opt_state, step_size=step_size)
    state, _ = context.train_seeds(
        stage,
        task,
        tx,
        data,
        lanes,
        steps=images.steps,
        start=start._replace(opt_state=opt_state),
        batch_size=settings.batch_size,
    )
    return state.variables


def choose(
    task: trove_jax.core.Task, lanes: Any, validation: Any, rates: Any, *, seeds: int
) -> tuple[Any, float]:
    """The seeds at the learning rate whose mean validation accuracy is best.

    Args:
      task: measures accuracy.
      lanes: variables, `[rates * s, ...]`.
      validation: images that were not trained on; not needed for one rate.
      rates: the learning rates.
      seeds: s.

    Returns:
      Variables, `[s, ...]`, and the rate.
    """
    best = 0
    if len(rates) > 1:
        found = trove_jax.core.evaluate_seeds(task, lanes, validation)["accuracy"]
        best = int(np.argmax(np.asarray(found).reshape(len(rates), -1).mean(axis=1)))
    first = best * seeds
    return jax.tree.map(lambda leaf: leaf[first : first + seeds], lanes), rates[best]


def compare(name: str, settings: Any, context: Any, *, seeds: int) -> Evidence:
    """E2, second half, and E3: trains the arms of one image set and measures them.

    Args:
      name: of the part; arms are called `<name>_<arm>`.
      settings: of the part.
      context: what the experiment runs in.
      seeds: s.

    Returns:
      Arms with `accuracy`, and where they are asked for `auroc`, `aupr`, `fpr95` (means over the
      sets that are not of the task; each set's in `auroc_<set>`, ...) and `robust`, all in percent.
    """
    images = Images(settings)
    train_data, validation, test, provenance = images.data(context.data_dir)
    strangers = {
        other: _strangers(images, other, context.data_dir, len(test.examples["label"]))
        for other in settings.ood
    }
    arms, log_p, notes = {}, {}, []
    for arm in settings.arms:
        stage = f"{name}/{arm}"
        lanes = train(images, arm, context, train_data, stage=stage, seeds=seeds)
        task = images.task(arm)
        found, rate = choose(task, lanes, validation, settings.learning_rates, seeds=seeds)
        if len(settings.learning_rates) > 1:
            notes.append(f"{stage}: learning rate {rate} is best on the validation images.")
        predict = _predictor(images.network(arm))
        inputs, labels = images.prepare(test.examples["image"]), test.examples["label"]
        log_p[arm] = predict(found, inputs)
        arms[f"{name}_{arm}"] = {
            "accuracy": _percent(_right(log_p[arm], labels)),
            **_ood(log_p[arm], {o: predict(found, x) for o, (x, _) in strangers.items()}),
            **_robust(images, arm, found, inputs, labels),
        }
    arms |= {f"{name}_{pair}": found for pair, found in _fusions(log_p, labels).items()}
    others = [origin for _, origins in strangers.values() for origin in origins]
    return Evidence(arms=arms, data=[provenance, *others], notes=notes)


def _predictor(module):
    """Makes `(variables [s, ...], inputs [n, ...]) -> log-probabilities [s, n, k]`."""

    @jax.jit
    def predict(variables, inputs):
        def one(variables):
            return jax.lax.map(
                lambda x: jax.nn.log_softmax(module.apply(variables, x[None], train=False)[0]),
                inputs,
                batch_size=min(_BLOCK, inputs.shape[0]),
            )

        return jax.lax.map(one, variables)

    return predict


def _strangers(images, name, data_dir, count):
    """Inputs of another set, `[n, ...]`, or of noise (bytes drawn one by one), and their origin."""
    data = trove_jax.data
    stored, _ = data.input_shape(images.settings.data)
    if name == "noise":
        white = int(images.settings.white)
        found = np.random.default_rng(0).integers(0, white + 1, (count, *stored.shape), np.uint8)
        return images.prepare(jnp.asarray(found)), []
    others = data.load_other_images(name, shape=stored.shape, count=count, data_dir=data_dir)
    return images.prepare(jnp.asarray(others.images)), [others.provenance]


def _ood(known, strangers):
    """How well the largest probability tells the task's own images, `[s, n, k]`, from others."""
    analysis = trove_jax.analysis
    report = jax.jit(jax.vmap(analysis.ood_report))
    score = analysis.max_softmax_score
    found: dict[str, Any] = {}
    for name, log_p in strangers.items():
        measured = report(score(known), score(log_p))
        for metric, values in (
            ("auroc", measured.auroc),
            ("aupr", measured.aupr_in),
            ("fpr95", measured.fpr),
        ):
            found.setdefault(metric, {})[name] = _percent(values)
    means = {
        metric: np.mean([v for n, v in sets.items() if n != "noise" or len(sets) == 1], axis=0)
        for metric, sets in found.items()
    }
    return {
        **{metric: [float(value) for value in values] for metric, values in means.items()},
        **{f"{metric}_{name}": v for metric, sets in found.items() for name, v in sets.items()},
    }


def _robust(images, arm, variables, inputs, labels):
    """Accuracy after one step of the fast gradient sign method, within the range of pixels."""
    epsilon = images.settings.epsilon
    if not epsilon:
        return {}
    analysis, module = trove_jax.analysis, images.network(arm)
    # Inputs reach from -1 to 1: a share of white is twice as much of them.
    attack = functools.partial(analysis.fgsm, epsilon=2 * epsilon, clip=(-1.0, 1.0))
    size = math.gcd(len(inputs), _BLOCK)
    blocks = jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), (inputs, labels))

    @jax.jit
    def measure(variables, blocks):
        def one(variables):
            logits = functools.partial(module.apply, variables, train=False)
            found = jax.lax.map(
                lambda block: analysis.robust_accuracy(logits, *block, attack), blocks
            )
            return found.mean()

        return jax.lax.map(one, variables)

    return {"robust": _percent(measure(variables, blocks))}


def _right(log_p, labels):
    """Share of right answers, `[s]`."""
    return jnp.mean(jnp.argmax(log_p, axis=-1) == labels[None], axis=-1)


def _fusions(log_p, labels):
    """Mean log-probabilities of two networks: of two kinds, and as a control of one kind."""
    if not {"poincare", "euclidean"} <= set(log_p):
        return {}
    ours, twin = log_p["poincare"], log_p["euclidean"]
    pairs = {
        "fusion": ours + twin,
        "two_euclidean": twin + jnp.roll(twin, 1, axis=0),
        "two_poincare": ours + jnp.roll(ours, 1, axis=0),
    }
    return {name: {"accuracy": _percent(_right(both, labels))} for name, both in pairs.items()}


def _percent(values):
    return [100.0 * float(value) for value in values]
