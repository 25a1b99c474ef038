"""Poincare ResNet: is a network whose every layer is hyperbolic as good as a Euclidean one?

    python -m launch.run --experiment=poincare_resnet --preset=laptop

Six parts. `norms`: what fresh stacks of layers do to the norms, from the identity start and from a
random one. `means`: the closed-form midpoint against the iterated Frechet mean, on random rows.
`digits`: networks with both means. `easy` and `hard`: a Poincare ResNet, its Euclidean twin and the
twin with a hyperbolic head on an easier and a harder image set, with images of other sets, an
attack on the pixels, and averages of two networks. `cost`: memory and time of the gradient by our
rule and by automatic differentiation. Every arm has the same grid of learning rates and is judged
at the rate that validation images choose; those images are never trained on.

preset   data                          networks                       expected     time
smoke    digits                        4 layers of width 2            runs at all  1 min
laptop   MNIST-5k and 5,000 images of  8 layers, widths (4, 8, 16),   see README   23 min
         CIFAR-10, all 16x16, 5 seeds  2 rates, 5 seeds
paper    CIFAR-10 and CIFAR-100        20 layers (or --config.easy.   see CLAIMS   not yet run
                                       depth=32), widths (8, 16, 32),
                                       100 epochs, 5 seeds
"""

import functools
from typing import Any

import ml_collections

import trove_jax
from experiments.vision import _poincare_measures as measures
from experiments.vision import _poincare_nets as nets
from trove_jax.evidence import Claim, Evidence, System

SYSTEM = System(
    number=2,
    title="Residual networks on the Poincare ball",
    paper="van Spengler, Berkhout and Mettes, Poincare ResNet, ICCV 2023, arXiv 2303.14027",
    url="https://arxiv.org/abs/2303.14027",
)

_SETS = {"easy": "MNIST-5k at 16x16", "hard": "5,000 images of CIFAR-10 at 16x16"}


def _trained(part: str, **fields: Any) -> Claim:
    return Claim(
        setting=f"{_SETS[part]}, 8 layers of widths (4, 8, 16), in place of CIFAR, 20 and 32 "
        "layers of widths (8, 16, 32)",
        **{"metric": "accuracy", "unit": "points", **fields},
    )


_norms = functools.partial(Claim, metric="decades", unit="decades", setting="without batch norm")

CLAIMS = (
    _norms(
        id="C1-identity",
        statement="Twenty fully connected layers that start at half of the identity keep the mean "
        "norm of their inputs (within 0.01 decades, 2.3 %).",
        treatment="dense_half_identity",
        baseline="inputs",
        kind="equality",
        margin=0.01,
        paper="norms stay over depth (a figure)",
    ),
    _norms(
        id="C1-normal",
        statement="Twenty fully connected layers with the normal start of HNN++ lose at least 3 "
        "decades against those that start at half of the identity.",
        treatment="dense_normal",
        baseline="dense_half_identity",
        better="lower",
        margin=3.0,
        paper="norms collapse to the origin (a figure)",
    ),
    _norms(
        id="C1-conv",
        statement="Convolutions that start at half of a truncated identity keep the mean norm as "
        "well (within 0.3 decades, a factor of 2).",
        treatment="conv_half_identity",
        baseline="inputs",
        kind="equality",
        margin=0.3,
        paper="not told apart from fully connected layers",
    ),
    _norms(
        id="C1-centre",
        statement="Convolutions that start at the identity on the centre tap keep the mean norm "
        "(within 0.3 decades).",
        treatment="conv_centre_tap",
        baseline="inputs",
        kind="equality",
        margin=0.3,
        paper="no such start: this one is ours",
    ),
    Claim(
        id="C2-distance",
        statement="The midpoint of random rows lies within 0.2 standard deviations of their "
        "Frechet mean, for every dimension and spread.",
        metric="distance",
        treatment="rows_midpoint",
        baseline="rows_frechet",
        kind="equality",
        margin=0.2,
        unit="standard deviations",
        paper="the midpoint as an approximation (no number printed)",
    ),
    Claim(
        id="C2-time",
        statement="The midpoint takes at most a twentieth of the time of the Frechet mean.",
        metric="seconds",
        treatment="rows_midpoint",
        baseline="rows_frechet",
        better="lower",
        kind="ratio",
        margin=0.05,
        unit="s",
        paper="cheaper, since closed-form",
    ),
    Claim(
        id="C2-accuracy",
        statement="Batch norm with the midpoint loses less than 1 point of accuracy against the "
        "Frechet mean.",
        metric="accuracy",
        treatment="digits_poincare",
        baseline="digits_frechet",
        margin=-1.0,
        unit="points",
        paper="as accurate on CIFAR-10",
        setting="8x8 digits, 8 layers of widths (4, 8, 16), in place of CIFAR-10",
    ),
    Claim(
        id="C2-step",
        statement="A network's gradient is faster with the midpoint than with the Frechet mean.",
        metric="step_seconds",
        treatment="step_midpoint",
        baseline="step_frechet",
        better="lower",
        kind="ratio",
        margin=1.0,
        unit="s",
        paper="faster per step",
    ),
    Claim(
        id="C3-memory",
        statement="The derived gradient needs at most half of the temporary memory of automatic "
        "differentiation of the same formulas.",
        metric="temporary_mib",
        treatment="own_gradient",
        baseline="autodiff",
        better="lower",
        kind="ratio",
        margin=0.5,
        unit="MiB",
        paper="derived backward passes make deeper networks fit (PyTorch)",
    ),
    Claim(
        id="C3-time",
        statement="The derived gradient is no slower than automatic differentiation.",
        metric="step_seconds",
        treatment="own_gradient",
        baseline="autodiff",
        better="lower",
        kind="ratio",
        margin=1.0,
        unit="s",
        paper="derived backward passes are faster (PyTorch)",
    ),
    *(
        _trained(
            part,
            id=f"C4-{part}",
            statement="The Poincare network loses less than 2 points of accuracy against its "
            f"Euclidean twin on the {'easier' if part == 'easy' else 'harder'} set.",
            treatment=f"{part}_poincare",
            baseline=f"{part}_euclidean",
            margin=-2.0,
            paper="on par or better on CIFAR-10 and CIFAR-100",
        )
        for part in ("easy", "hard")
    ),
    _trained(
        "hard",
        id="C4-head",
        statement="It loses less than 2 points against Euclidean features with a hyperbolic head.",
        treatment="hard_poincare",
        baseline="hard_head",
        margin=-2.0,
        paper="on par or better on CIFAR-10 and CIFAR-100",
    ),
    # The paper says "better". No sign is claimed here before the run: the verdict says whether the
    # two differ by more than the margin, the effect which way.
    _trained(
        "easy",
        id="C5-ood",
        statement="Told by their largest softmax probability, images of other sets are separated "
        "as well as by the Euclidean twin: AUROC within 5 points, either way.",
        metric="auroc",
        treatment="easy_poincare",
        baseline="easy_euclidean",
        kind="equality",
        margin=5.0,
        paper="better FPR95, AUROC and AUPR against Places365, SVHN and Textures",
    ),
    _trained(
        "easy",
        id="C5-fgsm",
        statement="Accuracy under the fast gradient sign attack is within 5 points of that of the "
        "Euclidean twin, either way.",
        metric="robust",
        treatment="easy_poincare",
        baseline="easy_euclidean",
        kind="equality",
        margin=5.0,
        paper="more robust than Euclidean",
    ),
    _trained(
        "hard",
        id="C6-fusion",
        statement="A Poincare and a Euclidean network averaged are more accurate than the "
        "Euclidean one.",
        treatment="hard_fusion",
        baseline="hard_euclidean",
        paper="features complement each other",
    ),
    _trained(
        "hard",
        id="C6-kinds",
        statement="A Poincare and a Euclidean network averaged are more accurate than two "
        "Euclidean ones averaged.",
        treatment="hard_fusion",
        baseline="hard_two_euclidean",
        paper="features complement each other (this control is ours)",
    ),
)


def get_config(preset: str) -> ml_collections.ConfigDict:
    """The settings of a preset."""
    return ml_collections.ConfigDict(
        {"smoke": _smoke, "laptop": _laptop, "paper": _paper}[preset]()
    )


_PARTS = ("norms", "means", "digits", "easy", "hard", "cost")
_ARMS = ("poincare", "euclidean", "head")


def _images(data: str, **changes: Any) -> dict[str, Any]:
    return {
        "data": data,
        # Images of the set that are used; 0 for all.
        "train": 0,
        "test": 0,
        # Grey level of white, pixels of border, side of the squares that become one pixel.
        "white": 255.0,
        "border": 0,
        "shrink": 1,
        "augment": False,
        "depth": 8,
        "widths": (4, 8, 16),
        "curvature": 0.1,
        "arms": _ARMS,
        "learning_rates": (1e-3, 4e-3),
        "validation": 0.15,
        "weight_decay": 1e-4,
        "batch_size": 64,
        "epochs": 12,
        # Sets of other images, and the largest change of a pixel under attack, as a share of white.
        "ood": (),
        "epsilon": 0.0,
        **changes,
    }


def _laptop() -> dict[str, Any]:
    return {
        "seeds": 5,
        "parts": _PARTS,
        "norms": {
            "depth": 20,
            "curvature": 0.1,
            "width": 32,
            "rows": 64,
            "channels": 8,
            "side": 16,
            "images": 4,
        },
        "means": {
            "rows": 16_384,
            "dimensions": (8, 32),
            "spreads": (0.2, 1.0, 2.0),
            "curvature": 0.1,
            "repeats": 5,
        },
        "digits": _images("digits", white=16.0, arms=("poincare", "frechet"), epochs=8),
        "easy": _images(
            "mnist_5k", border=2, shrink=2, ood=("fashion_mnist", "noise"), epsilon=0.05
        ),
        "hard": _images("cifar10_20k", train=5000, test=2000, shrink=2),
        "cost": {
            "depths": (8, 20),
            "widths": (4, 8, 16),
            "side": 16,
            "batch": 64,
            "repeats": 3,
        },
    }


def _smoke() -> dict[str, Any]:
    small = {"depth": 4, "widths": (2,), "white": 16.0, "train": 320, "test": 80, "epochs": 1}
    config = _laptop()
    config["norms"] |= {"depth": 4, "width": 8, "rows": 8, "channels": 4, "side": 6, "images": 2}
    config["means"] |= {"rows": 64, "dimensions": (3,), "spreads": (1.0,), "repeats": 1}
    config["cost"] |= {"depths": (8,), "widths": (2, 2, 2), "side": 4, "batch": 4, "repeats": 1}
    return {
        **config,
        "seeds": 2,
        # A Poincare network takes long to compile: one, of four layers, shows that all runs.
        "parts": ("norms", "means", "easy"),
        "digits": _images("digits", **small, arms=("poincare", "frechet"), learning_rates=(1e-3,)),
        "easy": _images("digits", **small, arms=_ARMS[:2], ood=("noise",), learning_rates=(1e-3,)),
        "hard": _images("digits", **small, arms=_ARMS, learning_rates=(1e-3,)),
    }


def _paper() -> dict[str, Any]:
    published = {
        "depth": 20,
        "widths": (8, 16, 32),
        "augment": True,
        "validation": 0.1,
        "batch_size": 128,
        "epochs": 100,
        "ood": ("svhn", "places365", "textures", "noise"),
        "epsilon": 2 / 255,
    }
    config = _laptop()
    return {
        **config,
        "digits": _images("cifar10", **published | {"ood": ()}, arms=("poincare", "frechet")),
        "easy": _images("cifar10", **published),
        "hard": _images("cifar100", **published),
        "cost": {
            "depths": (8, 20, 32),
            "widths": (8, 16, 32),
            "side": 32,
            "batch": 128,
            "repeats": 5,
        },
    }


def data_sets(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Names of the data sets that a configuration reads."""
    found = []
    for part in _chosen(config):
        if part in _SETTINGS:
            found += [config[part].data, *(name for name in config[part].ood if name != "noise")]
    return tuple(dict.fromkeys(found))


_SETTINGS = ("digits", "easy", "hard")


def plan(config: ml_collections.ConfigDict) -> list[trove_jax.core.StagePlan]:
    """The training runs that a configuration asks for."""
    stages = []
    for part in _chosen(config):
        if part in _SETTINGS:
            images = nets.Images(config[part])
            stages.append(
                trove_jax.core.plan_stage(
                    part,
                    images.task(config[part].arms[0]),
                    images.optimiser(),
                    runs=len(config[part].arms),
                    seeds=config.seeds * len(config[part].learning_rates),
                    steps=images.steps,
                )
            )
    return stages


def pod_step(config: ml_collections.ConfigDict) -> trove_jax.core.PodStep:
    """The step of the first arm of the part `easy`, at all learning rates, for a pod."""
    settings = config.easy
    images, arm = nets.Images(settings), settings.arms[0]
    return trove_jax.core.PodStep(
        f"{arm} network of {settings.depth} layers on {settings.data}",
        images.task(arm),
        images.optimiser(),
        trove_jax.data.abstract_inputs(settings.data).train,
        settings.batch_size,
        config.seeds * len(settings.learning_rates),
    )


def run(config: ml_collections.ConfigDict, context: Any) -> Evidence:
    """Trains all arms and gathers what the claims compare."""
    keys = trove_jax.core.seed_keys(config.seeds)
    found = []
    for part in _chosen(config):
        if part in _SETTINGS:
            found.append(nets.compare(part, config[part], context, seeds=config.seeds))
        elif part == "cost":
            found.append(measures.cost(config.cost, config.seeds))
        else:
            found.append(
                {"norms": measures.norms, "means": measures.means}[part](config[part], keys)
            )
    arms = {name: arm for part in found for name, arm in part.arms.items()}
    return Evidence(
        arms=arms,
        figures=[figure for part in found for figure in part.figures],
        data=list({d["name"]: d for part in found for d in part.data}.values()),
        notes=[note for part in found for note in part.notes],
        curves={name: curve for part in found for name, curve in part.curves.items()},
        not_tested=trove_jax.evidence.not_measured(CLAIMS, arms),
    )


def _chosen(config):
    """The parts that a configuration asks for, after refusing what no run could use."""
    error = trove_jax.core.UsageError
    if not config.parts or not set(config.parts) <= set(_PARTS):
        raise error(f"parts={config.parts} must be some of {', '.join(_PARTS)}")
    for part in _SETTINGS:
        settings = config[part]
        for arm in settings.arms:
            if arm not in (*_ARMS, "frechet"):
                raise error(f"{part}.arms names {arm!r}; the arms are {', '.join(_ARMS)}, frechet")
        if len(settings.learning_rates) > 1 and not settings.validation:
            raise error(
                f"{part} has several learning_rates, which are chosen on validation images; "
                f"set {part}.validation > 0"
            )
    return tuple(config.parts)
