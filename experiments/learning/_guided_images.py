"""The parts of the guidance experiment that learn images: networks, arms and measurements."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.special

import trove_jax
from trove_jax.evidence import Evidence, Figure

_COMPARED = 256  # test examples on which layers are compared
_BLOCK = 500  # examples that are predicted at a time


class Parts:
    """Networks, tasks and compiled measurements of one target.

    Args:
      settings: of the target, as in the configuration.
      prepare: stored images to inputs.
      train: training examples with their `index`, where what guides say about them is tabulated.
    """

    def __init__(self, settings, prepare=None, train=None):
        losses = trove_jax.losses
        self.settings = settings
        self._shape, classes = trove_jax.data.input_shape(settings.data)
        self._prepare = prepare or (lambda images: images)
        self._augment = (
            trove_jax.data.standard_augmentation(settings.data) if settings.augment else None
        )
        self._module = _network(settings.target, classes)
        self._guide_module = _network(settings.guide, classes)
        self.task = self._learned(self._classify(self._module))
        self.guide_task = self._learned(self._classify(self._guide_module))
        self._guide = losses.module_guide(self._guide_module, self._shape, read=self._read)
        self._own_shape = losses.module_guide(self._module, self._shape, read=self._read)
        self._train = None if train is None else trove_jax.core.Batch(train)
        self.drawn = self._guided(self._guide)
        self.guided = self._guided(self._table(self._guide))
        self.predict = self._predictor(self._module)
        self.predict_guide = self._predictor(self._guide_module)
        self.compare = jax.jit(self._compare)
        self.gradient_ratio = jax.jit(self._gradient_ratio)

    def control(self, arm: str) -> trove_jax.core.Task:
        """The task of an arm with another guide or another schedule."""
        losses, settings, guide = trove_jax.losses, self.settings, self._table(self._guide)
        if arm in ("shuffled", "trained_shuffled"):
            return self._guided(losses.shuffled(guide))
        if arm == "noise":
            return self._guided(losses.noise_fed(self._guide))
        if arm == "early_stop":
            return self._guided(guide, alpha=losses.until(settings.stop, settings.alpha))
        if arm == "own_shape":
            return self._guided(self._table(self._own_shape), mapping=self._own_layers())
        raise trove_jax.core.UsageError(f"arms has an arm {arm!r} that is not known")

    def known(self, guide_variables: Any) -> Any:
        """What guided arms carry of a guide: its variables, or what it says about all examples."""
        if self._train is None:
            return guide_variables
        train, tabulate = self._train, trove_jax.losses.tabulate
        return jax.jit(
            lambda lanes: jax.lax.map(lambda one: tabulate(self._guide, one, train), lanes)
        )(guide_variables)

    def dropped(self, rate: float) -> trove_jax.core.Task:
        """The target's task with dropout."""
        return self._learned(self._classify(self._module.clone(dropout_rate=rate)))

    def distilled(self, temperature: float) -> trove_jax.core.Task:
        """The target's task with distillation from the guide's logits."""

        def teach(variables, batch):
            return self._guide_module.apply(variables, self._read(batch), train=False)

        task = trove_jax.losses.distilled(
            self._classify(self._module), teach, self._guide.init, temperature=temperature
        )
        return self._learned(task)

    def _classify(self, module):
        return trove_jax.losses.classification(module, self._shape, prepare=self._prepare)

    def _guided(self, guide, **options):
        options = {"alpha": self.settings.alpha, **options}
        task = self._classify(self._module)
        return self._learned(trove_jax.losses.guided(task, guide, **options))

    def _table(self, guide):
        return guide if self._train is None else trove_jax.losses.tabulated(guide, self._train)

    def _read(self, batch):
        return self._prepare(batch.examples["image"])

    def _learned(self, task):
        """Augments before target and guide, so that both see the same images."""
        if self._augment is None:
            return task

        def loss(variables, batch, key, step):
            augment_key, key = jax.random.split(key)
            images = self._augment(augment_key, batch.examples["image"])
            batch = batch._replace(examples={**batch.examples, "image": images})
            return task.loss(variables, batch, key, step)

        return dataclasses.replace(task, loss=loss)

    def _own_layers(self):
        """A guide of the target's own shape counts at as many layers as the other guide has."""
        names = [self._layer_names(guide) for guide in (self._own_shape, self._guide)]
        mapping = trove_jax.losses.layer_map(len(names[0]), len(names[1]))
        return {names[0][index]: names[0][index] for index in dict.fromkeys(mapping)}

    def _layer_names(self, guide):
        inputs = (jnp.zeros((2, *self._shape.shape), self._shape.dtype),)
        return list(
            jax.eval_shape(
                lambda key: guide.activations(guide.init(key), inputs), jax.random.key(0)
            )
        )

    def _predictor(self, module):
        @jax.jit
        def predict(variables, examples):
            inputs = self._read(trove_jax.core.Batch(examples))
            return jax.lax.map(lambda one: module.apply(one, inputs, train=False), variables)

        return predict

    def _compare(self, variables, guide_variables, examples):
        """Debiased CKA of the pairs of layers that guidance compares, `[s, m]`."""
        inputs = (self._read(trove_jax.core.Batch(examples)),)
        debiased = functools.partial(trove_jax.analysis.linear_cka, debiased=True)

        def one(lane):
            ours, theirs = lane
            found = trove_jax.losses.guidance_loss(
                self._own_shape.activations(ours, inputs),
                self._guide.activations(theirs, inputs),
                similarity=debiased,
            )
            return jnp.stack([*found.similarities.values()])

        return jax.lax.map(one, (variables, guide_variables))

    def _gradient_ratio(self, variables, examples, keys):
        """Norm of the guidance's gradient over that of the task's on one batch, `[s]`."""
        batch = trove_jax.core.Batch(examples)

        def one(lane):
            norms = trove_jax.losses.gradient_norms(self.guided, lane[0], batch, lane[1])
            return norms["guidance"] / norms["task"]

        return jax.lax.map(one, (variables, keys))


def run_images(name: str, settings: Any, context: Any, keys: jax.Array) -> Evidence:
    """Trains one target without guidance, with it, and with all controls and baselines.

    Args:
      name: of the target, which all its stages and arms begin with.
      settings: as in the configuration.
      context: of the run.
      keys: one per seed.

    Returns:
      Its arms, figures and notes.
    """
    images = trove_jax.data.load_inputs(settings.data, data_dir=context.data_dir)
    train, validation, test, provenance = _split(images, settings)
    parts = Parts(settings, images.prepare, train.examples if settings.tabulate else None)
    # Every arm starts from the same target and, where it is not trained, the same guide.
    first = trove_jax.core.init_states(parts.drawn, optax.identity(), keys).variables
    own = _own(first)

    def learn(arm, task, tx, *, variables, steps=settings.steps):
        start = trove_jax.core.TrainState(
            jnp.int32(0), variables, jax.jit(jax.vmap(tx.init))(variables["params"])
        )
        state, _ = context.train_seeds(
            f"{name}/{arm}", task, tx, train, keys,
            steps=steps, start=start, batch_size=settings.batch_size,
        )  # fmt: skip
        return state.variables

    def choose(arm, candidates):
        """Trains one run per setting and keeps the one that validation images prefer."""
        found = {
            setting: learn(f"{arm}_{setting:g}", task, tx, variables={**own, **frozen})
            for setting, (task, tx, frozen) in candidates.items()
        }
        best = next(iter(found))
        if len(found) > 1:
            score = {s: _measure(parts.predict, v, validation) for s, v in found.items()}
            best = max(found, key=lambda setting: score[setting]["accuracy"].mean())
        chosen[arm], runs[arm] = best, found[best]

    chosen, runs = {}, {}
    trained = learn(
        "guide",
        parts.guide_task,
        optax.adam(_falling(settings, settings.guide_learning_rate, settings.guide_steps)),
        variables=first["guide"],
        steps=settings.guide_steps,
    )
    untrained, with_trained = ({**own, "guide": parts.known(g)} for g in (first["guide"], trained))
    adams = {
        rate: optax.adam(_falling(settings, rate, settings.steps))
        for rate in settings.learning_rates
    }
    choose("none", {rate: (parts.task, tx, {}) for rate, tx in adams.items()})
    choose("untrained", {rate: (parts.guided, tx, untrained) for rate, tx in adams.items()})
    alone, along = adams[chosen["none"]], adams[chosen["untrained"]]
    runs["trained"] = learn("trained", parts.guided, along, variables=with_trained)
    controls = {}
    for arm in settings.arms:
        kind = arm.removeprefix("trained_")
        task = controls[kind] = controls.get(kind) or parts.control(arm)
        variables = with_trained if arm.startswith("trained_") else untrained
        if arm == "noise":
            variables = first
        if arm == "own_shape":
            variables = trove_jax.core.init_states(task, optax.identity(), keys).variables
        runs[arm] = learn(arm, task, along, variables=variables)
    if settings.dropout_rates:
        choose("dropout", {r: (parts.dropped(r), alone, {}) for r in settings.dropout_rates})
    if settings.weight_decays:
        decays = {
            decay: optax.adamw(
                _falling(settings, chosen["none"], settings.steps),
                weight_decay=decay,
                mask=_kernels,
            )
            for decay in settings.weight_decays
        }
        choose("weight_decay", {d: (parts.task, tx, {}) for d, tx in decays.items()})
    if settings.temperatures:
        teacher = {"teacher": trained}
        choose(
            "distillation",
            {t: (parts.distilled(t), alone, teacher) for t in settings.temperatures},
        )
    return _judge(name, parts, keys, first, trained, runs, chosen, (train, test), provenance)


def _judge(name, parts, keys, first, trained, runs, chosen, data, provenance) -> Evidence:
    """Measures what was trained on test images that chose nothing."""
    train, test = data
    shown = _rows(test, np.arange(min(_COMPARED, _size(test))))
    of_guides = {
        f"guide_{kind}": _measure(parts.predict_guide, variables, test)
        for kind, variables in (("untrained", first["guide"]), ("trained", trained))
    }
    measured, layers = {}, {}
    for arm, variables in {"before": first, **runs}.items():
        own = _own(variables)
        guide = trained if arm.startswith("trained") else first["guide"]
        layers[arm] = np.asarray(parts.compare(own, guide, shown))
        if arm == "before":
            continue
        found = _measure(parts.predict, own, test)
        found["train_accuracy"] = _measure(parts.predict, own, train)["accuracy"]
        found["similarity"] = layers[arm].mean(axis=1)
        found["error_consistency"] = jax.vmap(trove_jax.analysis.error_consistency)(
            found.pop("right"), of_guides["guide_trained"]["right"]
        )
        measured[arm] = found
    accuracy = {arm: found["accuracy"] for arm, found in measured.items()}
    if "early_stop" in runs:
        gain = accuracy["untrained"] - accuracy["none"]
        measured["a_third_of_the_gain"] = {"accuracy": accuracy["none"] + gain / 3.0}
    measured |= {arm: {"accuracy": found["accuracy"]} for arm, found in of_guides.items()}
    notes = [
        f"{name}: settings that validation images chose: "
        + ", ".join(f"{arm} {setting:g}" for arm, setting in chosen.items())
        + "."
    ]
    if parts.settings.gradient_norms:
        batch = _rows(train, np.arange(parts.settings.batch_size))
        before, after = (
            float(np.mean(parts.gradient_ratio(variables, batch, keys)))
            for variables in ({**runs["untrained"], **_own(first)}, runs["untrained"])
        )
        notes.append(
            f"{name}: the gradient of the guidance is {before:.2g} times that of the task before "
            f"training and {after:.2g} times after it."
        )
    for arm, control in (("untrained", "shuffled"), ("trained", "trained_shuffled")):
        if control in accuracy:
            paired, moved = (float((accuracy[a] - accuracy["none"]).mean()) for a in (arm, control))
            notes.append(
                f"{name}: guide {arm}: it changes accuracy by {paired:+.1f} points, the same guide "
                f"with its pairing destroyed by {moved:+.1f}"
                + (
                    ": what it does is no transfer of how the guide represents these examples."
                    if moved >= paired
                    else "."
                )
            )
    shown_arms = [arm for arm in ("before", "none", "untrained", "trained") if arm in layers]
    figure = Figure(
        f"{name}_layers",
        f"Debiased similarity of compared layers to the guide, on test images ({name}).",
        functools.partial(
            trove_jax.evidence.curves,
            np.arange(layers["before"].shape[1]),
            {arm: layers[arm] for arm in shown_arms},
            xlabel="layer of the guide",
            ylabel="debiased CKA",
        ),
    )
    return Evidence(
        arms={
            f"{name}_{arm}": {metric: [float(x) for x in xs] for metric, xs in found.items()}
            for arm, found in measured.items()
        },
        figures=[figure],
        data=[provenance],
        notes=notes,
        curves={f"{name}_layer_similarity_{arm}": values for arm, values in layers.items()},
    )


def _own(variables):
    """What belongs to the network itself."""
    return {k: v for k, v in variables.items() if k not in ("guide", "teacher")}


def _falling(settings, rate, steps):
    """A learning rate that is divided by 10 after each of the shares of training in `drops`."""
    if not settings.drops:
        return rate
    return optax.piecewise_constant_schedule(
        rate, {round(share * steps): 0.1 for share in settings.drops}
    )


def _network(settings, classes):
    models = trove_jax.models
    if settings.kind == "perceptron":
        return models.DeepMLP(
            depth=settings.depth,
            width=settings.width,
            classes=classes,
            norm="batch" if settings.norm else None,
            dropout_rate=settings.dropout,
        )
    if settings.kind == "chain":
        return models.ConvChain(
            tuple(settings.features), tuple(settings.strides), classes, skip=settings.skip
        )
    return getattr(models, settings.kind)(classes=classes, skip=settings.skip)


def _split(images, settings):
    """Training, validation and test examples, and their record; a stream stays as it is."""
    if settings.train_size is None:
        return images.train, None, images.test, images.provenance
    examples = jax.tree.map(np.asarray, images.train.examples)
    cut = trove_jax.data.stratified_split

    def take(indices):
        return jax.tree.map(lambda leaf: leaf[indices], examples)

    rest, used = cut(examples["label"], size=settings.train_size, seed=0)
    more, held = cut(examples["label"][rest], size=settings.validation_size, seed=1)
    test = jax.tree.map(
        lambda a, b: np.concatenate([a, np.asarray(b)]), take(rest[more]), images.test.examples
    )
    made = {"train": take(used), "validation": take(rest[held]), "test": test}
    sizes = {name: len(part["label"]) for name, part in made.items()}
    if settings.tabulate:
        made["train"]["index"] = np.arange(sizes["train"], dtype=np.int32)
    data = [trove_jax.core.Data(jax.tree.map(jnp.asarray, part)) for part in made.values()]
    return *data, {**images.provenance, "split": sizes}


def _measure(predict, variables, data):
    """Accuracy (%), cross-entropy and which examples are right, one for each seed."""
    size, logits, labels = _size(data), [], []
    for begin in range(0, size, _BLOCK):
        # The last block is filled up, so that all have one shape.
        examples = _rows(data, np.arange(begin, begin + _BLOCK) % size)
        count = min(_BLOCK, size - begin)
        logits.append(np.asarray(predict(variables, examples))[:, :count])
        labels.append(np.asarray(examples["label"])[:count])
    logits, labels = np.concatenate(logits, axis=1), np.concatenate(labels)
    right = logits.argmax(axis=2) == labels
    failed = np.isnan(logits).any(axis=(1, 2))
    log_p = scipy.special.log_softmax(logits.astype(np.float64), axis=2)
    picked = np.take_along_axis(log_p, labels[None, :, None], axis=2)
    return {
        "accuracy": np.where(failed, np.nan, 100.0 * right.mean(axis=1)),
        "loss": -picked.mean(axis=(1, 2)),
        "right": right,
    }


def _size(data):
    is_stream = not hasattr(data.examples, "items")
    return len(data.examples) if is_stream else data.examples["label"].shape[0]


def _rows(data, rows):
    if hasattr(data.examples, "items"):
        return jax.tree.map(lambda leaf: leaf[rows], data.examples)
    return jax.tree.map(jnp.asarray, data.examples[rows])


def _kernels(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: trove_jax.transforms.is_kernel(
            jax.tree_util.keystr(path, simple=True, separator="/"), leaf
        ),
        params,
    )
