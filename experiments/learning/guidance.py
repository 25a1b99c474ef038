"""Guidance: does resembling a frozen network, even an untrained one, make a hopeless one learn?

    python -m launch.run --experiment=guidance --preset=laptop

Three targets that fail at a task are trained with a loss that makes their layers resemble those
of a guide: `deep` (a deep perceptron that overfits), `plain` (a deep convolution net without skip
connections) and `parity` (a Transformer). The claim is about transferred representations, so every
gain is held against guides that cannot transfer any: one that sees the batch in another order, one
that sees noise, one of the target's own shape, and against dropout, weight decay and distillation.
Learning rates and the settings of the baselines are chosen on validation examples.

preset   data                         networks                            expected      time
smoke    40 digits                    small ones, some of the arms        runs at all   seconds
laptop   300 digits, parity to 16     30 x 64 perceptron, 24 and 6        see README    ~10 min CPU
         bits, 5 seeds                convolutions, small RNN
paper    ImageNet, parity to 50 bits  48 x 1024 perceptron, plain         see CLAIMS    ~300 h, one
                                      ResNet-50, ResNet-18 and -50                      accelerator
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

import trove_jax
from experiments.learning._guided_images import Parts, run_images
from trove_jax.evidence import Claim, Evidence, System

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
        "tabulate": True,  # frozen guides, few images, no augmentation: each is asked once
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
        "drops": (),
        "alpha": 1.0,
        "stop": 150,
        "arms": ("early_stop", "shuffled", "trained_shuffled", "own_shape"),
        "dropout_rates": (0.02, 0.1),
        "weight_decays": (0.01, 0.1),
        "temperatures": (1.0, 4.0),
        "gradient_norms": True,
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
        "parts": ("deep",),
        "deep": _deep_settings(
            **few,
            target={"kind": "perceptron", "depth": 3, "width": 8, "norm": False, "dropout": 0.0},
            guide={**chain, "skip": True},
            learning_rates=(1e-3,),
            stop=2,
            arms=("early_stop", "shuffled", "trained_shuffled"),
            dropout_rates=(),
            weight_decays=(0.1,),
            temperatures=(),
            gradient_norms=False,
        ),
        "plain": _plain_settings(
            **few, target={**chain, "skip": False}, guide={**chain, "skip": True}
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
        "parts": ("deep", "plain", "parity"),
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
        "tabulate": False,
        "steps": 500_500,  # 100 epochs
        "guide_steps": 450_450,
        "guide_learning_rate": 1e-3,
        "batch_size": 256,
        "learning_rates": (1e-4,),
        "drops": (0.3, 0.6, 0.9),  # every 30 epochs
        "stop": 300,
    }
    return {
        "seeds": 5,
        "parts": ("deep", "plain", "parity"),
        "deep": _deep_settings(
            **imagenet,
            target={"kind": "perceptron", "depth": 48, "width": 1024, "norm": True, "dropout": 0.1},
            guide={"kind": "resnet18", "skip": True},
            arms=("early_stop", "shuffled", "trained_shuffled", "own_shape", "noise"),
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
    images = [config[name].data for name in ("deep", "plain") if name in config.parts]
    return tuple(dict.fromkeys(images))


def plan(config: ml_collections.ConfigDict) -> list[trove_jax.core.StagePlan]:
    """The training runs that a configuration asks for."""
    stages = []
    stage = functools.partial(trove_jax.core.plan_stage, seeds=config.seeds)
    for name in _chosen(config):
        s = config[name]
        if name == "parity":
            task, guide_task, guide = _parity_tasks(s)
            guided, tx = trove_jax.losses.guided(task, guide), _parity_optimiser(s)
            stages += [
                stage("parity: guide", guide_task, tx, runs=1, steps=s.guide_steps),
                stage("parity: alone", task, tx, runs=1, steps=s.steps),
                stage("parity: guided", guided, tx, runs=2, steps=s.steps),
            ]
            continue
        parts, adam = Parts(s), optax.adam(s.learning_rates[0])
        alone = len(s.learning_rates) + len(s.dropout_rates) + len(s.weight_decays)
        guided = len(s.learning_rates) + 1 + len(s.arms)
        stages += [
            stage(f"{name}: guide", parts.guide_task, adam, runs=1, steps=s.guide_steps),
            stage(f"{name}: alone", parts.task, adam, runs=alone, steps=s.steps),
            stage(f"{name}: guided", parts.drawn, adam, runs=guided, steps=s.steps),
        ]
        if s.temperatures:
            task, runs = parts.distilled(s.temperatures[0]), len(s.temperatures)
            stages.append(stage(f"{name}: distillation", task, adam, runs=runs, steps=s.steps))
    return stages


def run(config: ml_collections.ConfigDict, context: Any) -> Evidence:
    """Trains all arms and gathers what the claims compare."""
    keys = trove_jax.core.seed_keys(config.seeds)
    found = [
        _run_parity(config.parity, context, keys)
        if name == "parity"
        else run_images(name, config[name], context, keys)
        for name in _chosen(config)
    ]
    arms = {name: arm for part in found for name, arm in part.arms.items()}
    missing = {
        claim.id: "its arms are not part of this configuration"
        for claim in CLAIMS
        if not {claim.treatment, claim.baseline} <= set(arms)
    }
    return Evidence(
        arms=arms,
        figures=[figure for part in found for figure in part.figures],
        data=list({d["name"]: d for part in found for d in part.data}.values()),
        notes=[note for part in found for note in part.notes],
        curves={name: curve for part in found for name, curve in part.curves.items()},
        not_tested=missing,
    )


def _chosen(config):
    """The parts that a configuration asks for."""
    known = ("deep", "plain", "parity")
    if not config.parts or not set(config.parts) <= set(known):
        raise trove_jax.core.UsageError(f"parts={config.parts} must be some of {', '.join(known)}")
    return tuple(config.parts)


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


def _lists(metrics):
    return {name: [float(x) for x in values] for name, values in metrics.items()}
