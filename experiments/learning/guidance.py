"""Guidance: does resembling a frozen network, even an untrained one, make a hopeless one learn?

    python -m launch.run --experiment=guidance --preset=laptop

Three targets that fail at a task are trained with a loss that makes their layers resemble those
of a guide: `deep` (a deep perceptron that overfits), `plain` (a deep convolution net without skip
connections) and `parity` (a Transformer). The claim is about transferred representations, so every
gain is held against guides that cannot transfer any: one that sees the batch in another order, one
that sees noise, one of the target's own shape, and against dropout, weight decay and distillation.
Learning rates and the settings of the baselines are chosen on validation examples.

preset   data                         networks                            expected      time
smoke    digits, parity of 4-6 bits   small ones                          runs at all   seconds
laptop   300 digits, parity to 16     30 x 64 perceptron, 24 and 6        see README    ~11 min CPU
         bits, 5 seeds                convolutions, small RNN
paper    ImageNet, parity to 50 bits  48 x 1024 perceptron, plain         see CLAIMS    ~300 h, one
                                      ResNet-50, ResNet-18 and -50                      accelerator
"""

import dataclasses
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
    number=11,
    title="Guidance by representational alignment",
    paper="Subramaniam et al., Training the Untrainable: Introducing Inductive Bias via "
    "Representational Alignment, NeurIPS 2025, arXiv 2410.20035",
    url="https://arxiv.org/abs/2410.20035",
)

_points = {"metric": "accuracy", "unit": "points"}
_deep = functools.partial(
    Claim,
    setting="a 30 x 64 perceptron on 300 digits with a guide of six convolutions, in place of a "
    "48-layer one on ImageNet with ResNet-18",
)
_plain = functools.partial(
    Claim,
    setting="24 convolutions without skips on 300 digits, in place of ResNet-50 without skips on "
    "ImageNet",
    **_points,
)
_parity = functools.partial(
    Claim, setting="strings of 2 to 16 bits in place of 2 to 50, small networks", **_points
)

CLAIMS = (
    _deep(
        id="C1-accuracy",
        statement="An untrained convolution guide makes a deep perceptron one point more accurate.",
        treatment="deep_untrained",
        baseline="deep_none",
        margin=1.0,
        paper="7.5 to 13.1 % on ImageNet (figures of the first version)",
        **_points,
    ),
    _deep(
        id="C1-overfitting",
        statement="An untrained guide lowers the test cross-entropy of a network that fits its "
        "training data anyway to at most 0.8 of what it was.",
        metric="loss",
        treatment="deep_untrained",
        baseline="deep_none",
        better="lower",
        kind="ratio",
        margin=0.8,
        paper="the validation loss keeps falling instead of rising",
    ),
    _deep(
        id="C2-untrained",
        statement="For a deep perceptron an untrained guide is better than a trained one.",
        treatment="deep_untrained",
        baseline="deep_trained",
        paper="untrained above trained for the fully connected target",
        **_points,
    ),
    _deep(
        id="C6-early-stop",
        statement="Guidance for the first eighth of training keeps at least a third of the gain.",
        treatment="deep_early_stop",
        baseline="deep_a_third_of_the_gain",
        paper="guidance for the first 300 steps keeps most of the effect",
        **_points,
    ),
    _deep(
        id="C7-errors",
        statement="A trained guide makes the target's mistakes more like its own.",
        metric="error_consistency",
        treatment="deep_trained",
        baseline="deep_none",
        paper="higher error consistency with the guide",
    ),
    _deep(
        id="M-alignment",
        statement="Guidance raises the debiased similarity to the guide on test images by 0.1, "
        "against the same network without it (else the machinery is broken).",
        metric="similarity",
        treatment="deep_untrained",
        baseline="deep_none",
        margin=0.1,
    ),
    _deep(
        id="T-untrained",
        statement="What an untrained guide transfers is how it represents the examples: it beats "
        "the same guide that sees the batch in another order.",
        treatment="deep_untrained",
        baseline="deep_shuffled",
        paper="the gain is read as a transfer of representations",
        **_points,
    ),
    _deep(
        id="T-trained",
        statement="What a trained guide transfers is how it represents the examples: it beats the "
        "same guide that sees the batch in another order.",
        treatment="deep_trained",
        baseline="deep_trained_shuffled",
        paper="the gain is read as a transfer of representations",
        **_points,
    ),
    _deep(
        id="P-own-shape",
        statement="The architecture of the guide matters: untrained convolutions guide better than "
        "an untrained guide of the target's own shape.",
        treatment="deep_untrained",
        baseline="deep_own_shape",
        margin=1.0,
        paper="the gain is read as the guide's architectural prior",
        **_points,
    ),
    _deep(
        id="P-noise",
        statement="The architecture acts through the examples: untrained convolutions that see "
        "them guide better than those that see noise.",
        treatment="deep_untrained",
        baseline="deep_noise",
        paper="noise to the guide keeps part of the effect",
        **_points,
    ),
    _deep(
        id="B-dropout",
        statement="An untrained guide is better than dropout at its best rate.",
        treatment="deep_untrained",
        baseline="deep_dropout",
        **_points,
    ),
    _deep(
        id="B-weight-decay",
        statement="An untrained guide is better than weight decay at its best strength.",
        treatment="deep_untrained",
        baseline="deep_weight_decay",
        **_points,
    ),
    _deep(
        id="B-distillation",
        statement="A trained guide is better than distillation of its logits.",
        treatment="deep_trained",
        baseline="deep_distillation",
        **_points,
    ),
    _plain(
        id="C3-plain",
        statement="A trained residual guide makes a deep plain convolution net one point more "
        "accurate.",
        treatment="plain_trained",
        baseline="plain_none",
        margin=1.0,
        paper="a plain ResNet-50 becomes competitive with ResNet-50",
    ),
    _plain(
        id="C2-trained",
        statement="For a deep plain convolution net a trained guide is better than an untrained "
        "one.",
        treatment="plain_trained",
        baseline="plain_untrained",
        paper="the order is reversed against the perceptron",
    ),
    _plain(
        id="T-plain",
        statement="What a residual guide transfers to a plain net is how it represents the "
        "examples: it beats the same guide that sees the batch in another order.",
        treatment="plain_trained",
        baseline="plain_trained_shuffled",
    ),
    _parity(
        id="C5-untrained",
        statement="An untrained recurrent guide makes a Transformer one point better at parity.",
        treatment="parity_untrained",
        baseline="parity_none",
        margin=1.0,
        paper="72.0 to 78.5 %",
    ),
    _parity(
        id="C5-trained",
        statement="A trained recurrent guide makes a Transformer one point better at parity.",
        treatment="parity_trained",
        baseline="parity_none",
        margin=1.0,
        paper="72.0 to 78.5 %",
    ),
)

_COMPARED = 256  # test examples on which layers are compared


def get_config(preset: str) -> ml_collections.ConfigDict:
    """The settings of a preset."""
    return ml_collections.ConfigDict(
        {"smoke": _smoke, "laptop": _laptop, "paper": _paper}[preset]()
    )


def _deep_settings(**changes: Any) -> dict[str, Any]:
    return {
        "data": "digits",
        "train_size": 300,
        "validation_size": 340,
        "augment": False,
        "target": {"kind": "perceptron", "depth": 30, "width": 64, "norm": False, "dropout": 0.0},
        "guide": {
            "kind": "chain",
            "features": (16, 16, 32, 32, 64, 64),
            "strides": (1, 1, 2, 1, 2, 1),
            "skip": True,
        },
        "guide_steps": 400,
        "guide_learning_rate": 1e-3,
        "steps": 1200,
        "batch_size": 128,
        "learning_rates": (5e-4, 1e-3),
        "alpha": 1.0,
        "stop": 150,
        "arms": ("early_stop", "shuffled", "trained_shuffled", "own_shape", "noise"),
        "dropout_rates": (0.02, 0.1),
        "weight_decays": (0.01, 0.1),
        "temperatures": (1.0, 4.0),
        **changes,
    }


def _plain_settings(**changes: Any) -> dict[str, Any]:
    shape = {"features": (8,) * 24, "strides": (1,) * 8 + (2,) + (1,) * 7 + (2,) + (1,) * 7}
    return _deep_settings(
        **{
            "target": {"kind": "chain", **shape, "skip": False},
            "guide": {"kind": "chain", **shape, "skip": True},
            "guide_steps": 300,
            "steps": 300,
            "batch_size": 64,
            "arms": ("trained_shuffled",),
            "dropout_rates": (),
            "weight_decays": (),
            "temperatures": (),
            **changes,
        }
    )


def _parity_settings(**changes: Any) -> dict[str, Any]:
    return {
        "max_length": 16,
        "train": 4000,
        "validation": 500,
        "test": 1000,
        "target": {"width": 32, "heads": 2, "depth": 2, "feed_forward": 64, "dropout": 0.0},
        "guide": {"embedding": 16, "width": 32, "depth": 2},
        "guide_steps": 1500,
        "steps": 600,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "clip": 0.25,
        "alpha": 1.0,
        **changes,
    }


def _smoke() -> dict[str, Any]:
    few = {"train_size": 40, "validation_size": 20, "batch_size": 16, "steps": 6, "guide_steps": 4}
    chain = {"kind": "chain", "features": (4, 4), "strides": (1, 2)}
    return {
        "seeds": 2,
        "deep": _deep_settings(
            **few,
            target={"kind": "perceptron", "depth": 4, "width": 8, "norm": False, "dropout": 0.0},
            guide={**chain, "skip": True},
            learning_rates=(1e-3,),
            stop=2,
            dropout_rates=(0.1,),
            weight_decays=(0.1,),
            temperatures=(4.0,),
        ),
        "plain": _plain_settings(
            **few,
            target={**chain, "skip": False},
            guide={**chain, "skip": True},
            learning_rates=(1e-3,),
        ),
        "parity": _parity_settings(
            max_length=6,
            train=30,
            validation=8,
            test=8,
            target={"width": 8, "heads": 2, "depth": 1, "feed_forward": 8, "dropout": 0.0},
            guide={"embedding": 4, "width": 8, "depth": 1},
            guide_steps=4,
            steps=4,
            batch_size=8,
        ),
    }


def _laptop() -> dict[str, Any]:
    return {
        "seeds": 5,
        "deep": _deep_settings(),
        "plain": _plain_settings(),
        "parity": _parity_settings(),
    }


def _paper() -> dict[str, Any]:
    imagenet = {
        "data": "imagenet",
        "train_size": None,
        "validation_size": None,
        "augment": True,
        "steps": 500_500,  # 100 epochs
        "guide_steps": 450_450,
        "guide_learning_rate": 1e-3,
        "batch_size": 256,
        "learning_rates": (1e-4,),
        "stop": 300,
    }
    return {
        "seeds": 5,
        "deep": _deep_settings(
            **imagenet,
            target={"kind": "perceptron", "depth": 48, "width": 1024, "norm": True, "dropout": 0.1},
            guide={"kind": "resnet18", "skip": True},
            dropout_rates=(0.5,),
            weight_decays=(0.1,),
            temperatures=(4.0,),
        ),
        "plain": _plain_settings(
            **imagenet,
            target={"kind": "resnet50", "skip": False},
            guide={"kind": "resnet50", "skip": True},
        ),
        "parity": _parity_settings(
            max_length=50,
            train=80_000,
            validation=10_000,
            test=10_000,
            target={"width": 512, "heads": 16, "depth": 4, "feed_forward": 2048, "dropout": 0.1},
            guide={"embedding": 256, "width": 512, "depth": 4},
            guide_steps=62_500,
            steps=62_500,
        ),
    }


def data_sets(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Names of the data sets that a configuration reads; parity is drawn from a key."""
    return tuple(dict.fromkeys([config.deep.data, config.plain.data]))


def plan(config: ml_collections.ConfigDict) -> list[trove_jax.core.StagePlan]:
    """The training runs that a configuration asks for."""
    stages = []
    stage = functools.partial(trove_jax.core.plan_stage, seeds=config.seeds)
    for name in ("deep", "plain"):
        s = config[name]
        parts = _Parts(s)
        alone = len(s.learning_rates) + len(s.dropout_rates) + len(s.weight_decays)
        guided = len(s.learning_rates) + 1 + len(s.arms)
        adam = optax.adam(s.learning_rates[0])
        stages += [
            stage(f"{name}: guide", parts.guide_task, adam, runs=1, steps=s.guide_steps),
            stage(f"{name}: alone", parts.task, adam, runs=alone, steps=s.steps),
            stage(f"{name}: guided", parts.guided(), adam, runs=guided, steps=s.steps),
        ]
        if s.temperatures:
            task = parts.distilled(s.temperatures[0])
            runs = len(s.temperatures)
            stages.append(stage(f"{name}: distillation", task, adam, runs=runs, steps=s.steps))
    s = config.parity
    task, guide_task, guide = _parity_tasks(s)
    tx = _parity_optimiser(s)
    return [
        *stages,
        stage("parity: guide", guide_task, tx, runs=1, steps=s.guide_steps),
        stage("parity: alone", task, tx, runs=1, steps=s.steps),
        stage("parity: guided", trove_jax.losses.guided(task, guide), tx, runs=2, steps=s.steps),
    ]


def run(config: ml_collections.ConfigDict, context: Any) -> Evidence:
    """Trains all arms and gathers what the claims compare."""
    keys = trove_jax.core.seed_keys(config.seeds)
    parts = [
        _run_images("deep", config.deep, context, keys),
        _run_images("plain", config.plain, context, keys),
        _run_parity(config.parity, context, keys),
    ]
    return Evidence(
        arms={name: arm for part in parts for name, arm in part.arms.items()},
        figures=[figure for part in parts for figure in part.figures],
        data=list({d["name"]: d for part in parts for d in part.data}.values()),
        notes=[note for part in parts for note in part.notes],
        curves={name: curve for part in parts for name, curve in part.curves.items()},
    )


class _Parts:
    """Networks and tasks of one target among images."""

    def __init__(self, settings, prepare=None):
        losses = trove_jax.losses
        self.settings = settings
        shape, classes = trove_jax.data.input_shape(settings.data)
        self._shape, self._prepare = shape, prepare or (lambda images: images)
        self._augment = (
            trove_jax.data.standard_augmentation(settings.data) if settings.augment else None
        )
        self._classes = classes
        self.module = _network(settings.target, classes)
        self.guide_module = _network(settings.guide, classes)
        self.task = self._learned(self.classify(self.module))
        self.guide_task = self._learned(self.classify(self.guide_module))
        self.guide = losses.module_guide(self.guide_module, shape, read=self._read)
        self.own_shape = losses.module_guide(self.module, shape, read=self._read)

    def classify(self, module):
        return trove_jax.losses.classification(module, self._shape, prepare=self._prepare)

    def guided(self, guide=None, **options):
        task = trove_jax.losses.guided(
            self.classify(self.module),
            guide or self.guide,
            **{"alpha": self.settings.alpha, **options},
        )
        return self._learned(task)

    def distilled(self, temperature):
        def teach(variables, batch):
            return self.guide_module.apply(variables, *self._read_all(batch), train=False)

        task = self.classify(self.module)
        return self._learned(
            trove_jax.losses.distilled(task, teach, self.guide.init, temperature=temperature)
        )

    def dropped(self, rate):
        return self._learned(self.classify(self.module.clone(dropout_rate=rate)))

    def _read(self, batch):
        return self._prepare(batch.examples["image"])

    def _read_all(self, batch):
        return (self._read(batch),)

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


def _run_images(name, settings, context, keys) -> Evidence:
    """One target among images: without guidance, with it, and all controls and baselines."""
    core, losses = trove_jax.core, trove_jax.losses
    images = trove_jax.data.load_inputs(settings.data, data_dir=context.data_dir)
    train, validation, test, split = _split(images, settings)
    parts = _Parts(settings, images.prepare)

    def learn(arm, task, tx, *, steps=settings.steps, **frozen):
        start = core.init_states(task, tx, keys)
        start = start._replace(variables={**start.variables, **frozen})
        state, history = context.train_seeds(
            f"{name}/{arm}", task, tx, train, keys,
            steps=steps, start=start, batch_size=settings.batch_size,
        )  # fmt: skip
        return state.variables, history

    def choose(arm, tasks):
        """Trains one run per setting and keeps the one that validation images prefer."""
        found = {
            setting: learn(f"{arm}_{setting:g}", task, tx, **frozen)
            for setting, (task, tx, frozen) in tasks.items()
        }
        if len(found) == 1:
            best = next(iter(found))
        else:
            best = max(found, key=lambda s: _accuracy(parts, found[s][0], validation).mean())
        chosen[arm] = best
        return found[best]

    chosen, runs = {}, {}
    trained, _ = learn(
        "guide", parts.guide_task, optax.adam(settings.guide_learning_rate),
        steps=settings.guide_steps,
    )  # fmt: skip
    task, guided = parts.task, parts.guided()
    adams = {rate: optax.adam(rate) for rate in settings.learning_rates}
    runs["none"] = choose("none", {rate: (task, tx, {}) for rate, tx in adams.items()})
    runs["untrained"] = choose("untrained", {rate: (guided, tx, {}) for rate, tx in adams.items()})
    alone, along = adams[chosen["none"]], adams[chosen["untrained"]]
    runs["trained"] = learn("trained", guided, along, guide=trained)
    shuffled = parts.guided(losses.shuffled(parts.guide))
    arms = {
        "early_stop": lambda: (parts.guided(alpha=losses.until(settings.stop, settings.alpha)), {}),
        "shuffled": lambda: (shuffled, {}),
        "trained_shuffled": lambda: (shuffled, {"guide": trained}),
        "own_shape": lambda: (parts.guided(parts.own_shape, mapping=_own_layers(parts, test)), {}),
        "noise": lambda: (parts.guided(losses.noise_fed(parts.guide)), {}),
    }
    for arm in settings.arms:
        control, frozen = arms[arm]()
        runs[arm] = learn(arm, control, along, **frozen)
    baselines = {
        "dropout": {rate: (parts.dropped(rate), alone, {}) for rate in settings.dropout_rates},
        "weight_decay": {
            decay: (task, optax.adamw(chosen["none"], weight_decay=decay, mask=_kernels), {})
            for decay in settings.weight_decays
        },
        "distillation": {
            t: (parts.distilled(t), alone, {"teacher": trained}) for t in settings.temperatures
        },
    }
    for arm, tasks in baselines.items():
        if tasks:
            runs[arm] = choose(arm, tasks)
    return _judge_images(name, settings, parts, keys, runs, chosen, trained, (train, test), split)


def _judge_images(name, settings, parts, keys, runs, chosen, trained, data, split) -> Evidence:
    """Measures what was trained on test images that chose nothing."""
    core, evidence = trove_jax.core, trove_jax.evidence
    train, test = data
    start = core.init_states(parts.guided(), optax.adam(1.0), keys).variables
    untrained = start["guide"]
    measured = {arm: _measures(parts, variables, data) for arm, (variables, _) in runs.items()}
    guides = {"untrained": untrained, "trained": trained}
    errors = _right(parts.guide_module, parts, trained, test)
    shown = _first(test, _COMPARED)
    layers = {}
    for arm, (variables, _) in runs.items():
        ours = _right(parts.module, parts, variables, test)
        measured[arm]["error_consistency"] = jax.vmap(trove_jax.analysis.error_consistency)(
            ours, errors
        )
        guide = trained if arm.startswith("trained") else untrained
        layers[arm] = _layer_similarities(parts, variables, guide, shown)
        measured[arm]["similarity"] = layers[arm].mean(axis=1)
    layers["before"] = _layer_similarities(parts, start, untrained, shown)
    for kind, variables in guides.items():
        found = core.evaluate_seeds(parts.guide_task, variables, test)
        measured[f"guide_{kind}"] = {"accuracy": 100.0 * found["accuracy"]}
    if "early_stop" in runs:
        none, gain = measured["none"]["accuracy"], measured["untrained"]["accuracy"]
        measured["a_third_of_the_gain"] = {"accuracy": none + (gain - none) / 3.0}
    compared = [arm for arm in ("none", "untrained", "trained", "shuffled") if arm in layers]
    figures = [
        Figure(
            f"{name}_layers",
            f"Debiased similarity of compared layers to the guide on test images ({name}).",
            functools.partial(
                evidence.curves,
                np.arange(layers["before"].shape[1]),
                {arm: layers[arm] for arm in ["before", *compared]},
                xlabel="layer of the guide",
                ylabel="debiased CKA",
            ),
        )
    ]
    plain = {"guide": untrained, "params": runs["untrained"][0]["params"]}
    ratio = {
        when: _gradient_ratio(parts, {**start, **variables}, train, keys)
        for when, variables in (("start", {}), ("end", plain))
    }
    gap = measured["untrained"]["accuracy"].mean() - measured["none"]["accuracy"].mean()
    notes = [
        f"{name}: settings that validation images chose: "
        + ", ".join(f"{arm} {setting:g}" for arm, setting in chosen.items())
        + ".",
        f"{name}: the gradient of the guidance is {ratio['start'].mean():.2g} times that of the "
        f"task before training and {ratio['end'].mean():.2g} times after it.",
    ]
    if "shuffled" in measured:
        control = measured["shuffled"]["accuracy"].mean() - measured["none"]["accuracy"].mean()
        notes.append(
            f"{name}: an untrained guide changes accuracy by {gap:+.1f} points, the same guide "
            f"with its pairing destroyed by {control:+.1f}: "
            + (
                "the gain is no transfer of how the guide represents these examples."
                if control >= gap
                else "part of the gain depends on which example the guide sees."
            )
        )
    return Evidence(
        arms={f"{name}_{arm}": _lists(metrics) for arm, metrics in measured.items()},
        figures=figures,
        data=[split],
        notes=notes,
        curves={f"{name}_layer_similarity_{arm}": values for arm, values in layers.items()},
    )


def _run_parity(settings, context, keys) -> Evidence:
    """A Transformer that learns parity, alone and guided by a recurrent network."""
    core, losses = trove_jax.core, trove_jax.losses
    drawn = trove_jax.data.parity(
        jax.random.key(0),
        train=settings.train,
        validation=settings.validation,
        test=settings.test,
        max_length=settings.max_length,
    )
    train, test = (core.Data(jax.tree.map(jnp.asarray, p)) for p in (drawn.train, drawn.test))
    task, guide_task, guide = _parity_tasks(settings)
    guided, tx = losses.guided(task, guide, alpha=settings.alpha), _parity_optimiser(settings)

    def learn(arm, task, steps, **frozen):
        start = core.init_states(task, tx, keys)
        start = start._replace(variables={**start.variables, **frozen})
        state, _ = context.train_seeds(
            f"parity/{arm}", task, tx, train, keys,
            steps=steps, start=start, batch_size=settings.batch_size,
        )  # fmt: skip
        return state.variables

    trained = learn("guide", guide_task, settings.guide_steps)
    found = {
        "none": learn("none", task, settings.steps),
        "untrained": learn("untrained", guided, settings.steps),
        "trained": learn("trained", guided, settings.steps, guide=trained),
    }
    arms = {}
    for arm, variables in found.items():
        measured = core.evaluate_seeds(task, {"params": variables["params"]}, test)
        arms[f"parity_{arm}"] = _lists({"accuracy": 100.0 * measured["accuracy"]})
    measured = core.evaluate_seeds(guide_task, trained, test)
    arms["parity_guide_trained"] = _lists({"accuracy": 100.0 * measured["accuracy"]})
    return Evidence(arms=arms, data=[drawn.provenance])


def _parity_tasks(settings):
    losses, models = trove_jax.losses, trove_jax.models
    length, t, g = settings.max_length, settings.target, settings.guide
    target = models.Transformer(
        vocabulary=3,
        outputs=2,
        width=t.width,
        heads=t.heads,
        depth=t.depth,
        feed_forward=t.feed_forward,
        context=length,
        readout="mean",
        dropout_rate=t.dropout,
    )
    recurrent = models.SimpleRNN(
        vocabulary=3, outputs=2, embedding=g.embedding, width=g.width, depth=g.depth, readout="last"
    )
    tokens, mask = (jax.ShapeDtypeStruct((length,), dtype) for dtype in (jnp.int32, jnp.bool_))
    guide = losses.module_guide(
        recurrent, tokens, mask, read=lambda b: (b.examples["tokens"], b.examples["mask"])
    )
    task, guide_task = (
        losses.sequence_classification(module, length=length) for module in (target, recurrent)
    )
    return task, guide_task, guide


def _parity_optimiser(settings):
    return optax.chain(
        optax.clip_by_global_norm(settings.clip), optax.adamw(settings.learning_rate)
    )


def _split(images, settings):
    """Training, validation and test examples, and their record; a stream stays as it is."""
    core, data = trove_jax.core, trove_jax.data
    if settings.train_size is None:
        return images.train, None, images.test, images.provenance
    examples = jax.tree.map(np.asarray, images.train.examples)
    cut = data.stratified_split

    def take(indices):
        return jax.tree.map(lambda leaf: leaf[indices], examples)

    rest, used = cut(examples["label"], size=settings.train_size, seed=0)
    more, held = cut(examples["label"][rest], size=settings.validation_size, seed=1)
    train, validation = take(used), take(rest[held])
    test = jax.tree.map(
        lambda a, b: np.concatenate([a, np.asarray(b)]), take(rest[more]), images.test.examples
    )
    parts = {"train": train, "validation": validation, "test": test}
    sizes = {name: len(part["label"]) for name, part in parts.items()}
    made = [core.Data(jax.tree.map(jnp.asarray, part)) for part in parts.values()]
    return *made, {**images.provenance, "split": sizes}


def _first(data, count):
    """The first examples of resident data or of a stream."""
    if hasattr(data.examples, "items"):
        return jax.tree.map(lambda leaf: leaf[:count], data.examples)
    return jax.tree.map(jnp.asarray, data.examples[np.arange(min(count, len(data.examples)))])


def _own_layers(parts, test):
    """Compares a guide of the target's own shape at as many layers as the other guide has."""
    names = []
    for guide, module in ((parts.own_shape, parts.module), (parts.guide, parts.guide_module)):
        del module
        images = _first(test, 2)
        variables = jax.eval_shape(guide.init, jax.random.key(0))
        batch = trove_jax.core.Batch(images)
        read = functools.partial(_activations, guide, batch)
        names.append(list(jax.eval_shape(read, variables)))
    mapping = trove_jax.losses.layer_map(len(names[0]), len(names[1]))
    return {names[0][index]: names[0][index] for index in dict.fromkeys(mapping)}


def _activations(guide, batch, variables):
    return guide.activations(variables, guide.inputs(batch, jax.random.key(0)))


def _layer_similarities(parts, variables, guide_variables, examples):
    """Debiased CKA of the compared pairs on some examples, `[s, m]`."""
    batch = trove_jax.core.Batch(examples)
    linear_cka = functools.partial(trove_jax.analysis.linear_cka, debiased=True)

    def one(lane):
        ours, theirs = lane
        compared = trove_jax.losses.guidance_loss(
            _activations(parts.own_shape, batch, ours),
            _activations(parts.guide, batch, theirs),
            similarity=linear_cka,
        )
        return jnp.stack([*compared.similarities.values()])

    ours = {k: v for k, v in variables.items() if k not in ("guide", "teacher")}
    return np.asarray(jax.jit(lambda lanes: jax.lax.map(one, lanes))((ours, guide_variables)))


def _gradient_ratio(parts, variables, train, keys):
    """Norm of the guidance's gradient over that of the task's, on one batch, `[s]`."""
    batch = trove_jax.core.Batch(_first(train, parts.settings.batch_size))

    def one(lane):
        norms = trove_jax.losses.gradient_norms(parts.guided(), lane[0], batch, lane[1])
        return norms["guidance"] / norms["task"]

    return np.asarray(jax.jit(lambda lanes: jax.lax.map(one, lanes))((variables, keys)))


def _measures(parts, variables, data):
    """Accuracy (%) and cross-entropy on test, accuracy on training images, one per seed."""
    variables = {k: v for k, v in variables.items() if k not in ("guide", "teacher")}
    seen, new = (trove_jax.core.evaluate_seeds(parts.task, variables, part) for part in data)
    return {
        "accuracy": 100.0 * np.asarray(new["accuracy"]),
        "loss": np.asarray(new["loss"]),
        "train_accuracy": 100.0 * np.asarray(seen["accuracy"]),
    }


def _accuracy(parts, variables, data):
    variables = {k: v for k, v in variables.items() if k not in ("guide", "teacher")}
    found = trove_jax.core.evaluate_seeds(parts.task, variables, data)
    return np.asarray(found["accuracy"])


def _right(module, parts, variables, data, block=500):
    """Which examples a network classifies rightly, `[s, n]`."""
    variables = {k: v for k, v in variables.items() if k not in ("guide", "teacher")}
    stream = not hasattr(data.examples, "items")
    size = len(data.examples) if stream else len(data.examples["label"])

    @jax.jit
    def judge(variables, examples):
        def one(variables):
            inputs = parts._read(trove_jax.core.Batch(examples))
            logits = module.apply(variables, inputs, train=False)
            return jnp.argmax(logits, axis=1) == examples["label"]

        return jax.lax.map(one, variables)

    found = []
    for first in range(0, size, block):
        rows = np.arange(first, min(first + block, size))
        examples = data.examples[rows] if stream else _rows(data.examples, rows)
        found.append(judge(variables, examples))
    return jnp.concatenate(found, axis=1)


def _rows(examples, rows):
    return jax.tree.map(lambda leaf: leaf[rows], examples)


def _kernels(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: trove_jax.transforms.is_kernel(
            jax.tree_util.keystr(path, simple=True, separator="/"), leaf
        ),
        params,
    )


def _lists(metrics):
    return {name: [float(x) for x in values] for name, values in metrics.items()}
