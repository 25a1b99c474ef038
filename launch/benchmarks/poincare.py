"""What layers and networks on the Poincare ball cost: against Euclidean ones and against HypLL.

Layers are timed with output and all gradients, networks with a whole train step (Adam, coupled L2).
Memory is what the compiler reserves beside arguments and results
(`memory_analysis().temp_size_in_bytes`). "Autodiff" is the same formulas without the gradient rule
of `kernels.fused_rows`, which keeps nothing but its inputs.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from launch.benchmarks.timing import Row, needs_extra, time_in_turn
from trove_jax import core, layers, losses, models

_CURVATURE = 0.1
_CLASSES = 10


def measure(quick: bool = False) -> list[Row]:
    """Compares a convolution, a batch normalisation and whole networks."""
    shape, repeats = ((2, 8, 8, 4), 1) if quick else ((64, 32, 32, 16), 9)
    depth, batch, steps = (8, 2, 1) if quick else (20, 32, 5)
    return [
        *_convolution(shape, repeats),
        *_normalisation(shape, repeats),
        *_networks(depth, batch, steps),
    ]


def _convolution(shape: tuple[int, ...], repeats: int) -> list[Row]:
    x, cotangent = _draw(shape, 0), _draw(shape, 1)
    conv = functools.partial(layers.PoincareConv, shape[-1], (3, 3), curvature=_CURVATURE)
    ours = _Layer(conv(), x, cotangent)
    plain = _Layer(conv(implementation="autodiff"), x, cotangent)
    euclidean = _Layer(nn.Conv(shape[-1], (3, 3)), x, cotangent)
    candidates: dict[str, Callable[[], object]] = {
        "ours": ours,
        "Euclidean": euclidean,
        "autodiff": plain,
    }
    name, goal = f"HypLL / PoincareConv 3x3, {shape}", 20.0
    found = time_in_turn(candidates, repeats=repeats, warm_up=2)
    rows = [
        _against_hypll(
            name,
            goal,
            lambda peers: peers.convolution(*ours.weights, np.asarray(x), curvature=_CURVATURE),
            ours,
            repeats,
        ),
        Row(
            "PoincareConv / flax Conv",
            found.ratio("ours", to="Euclidean"),
            2.5,
            detail=_milliseconds(found, "ours", "Euclidean") + " for output and gradients",
        ),
        Row(
            "PoincareConv, own gradient / autodiff",
            found.ratio("ours", to="autodiff"),
            detail=_milliseconds(found, "ours", "autodiff"),
        ),
        _memory("PoincareConv", plain.temporaries(), ours.temporaries()),
    ]
    return rows


def _normalisation(shape: tuple[int, ...], repeats: int) -> list[Row]:
    x, cotangent = _draw(shape, 2), _draw(shape, 3)
    norm = functools.partial(layers.PoincareBatchNorm, curvature=_CURVATURE)
    options = {"train": True, "mutable": ["batch_stats"]}
    midpoint = _Layer(norm(mean="midpoint"), x, cotangent, **options)
    frechet = _Layer(norm(mean="frechet"), x, cotangent, **options)
    euclidean = _Layer(
        layers.BatchNorm(use_running_average=False), x, cotangent, mutable=["batch_stats"]
    )
    found = time_in_turn(
        {"midpoint": midpoint, "frechet": frechet, "Euclidean": euclidean},
        repeats=repeats,
        warm_up=2,
    )

    def peer(mean: str) -> Row:
        return _against_hypll(
            f"HypLL batch norm with {mean} / PoincareBatchNorm with midpoint",
            20.0 if mean == "Frechet mean" else None,
            lambda peers: peers.batch_norm(
                np.asarray(x), curvature=_CURVATURE, midpoint=mean == "midpoint"
            ),
            midpoint,
            max(1, repeats // 3),
            same=mean == "midpoint",
        )

    return [
        Row(
            "PoincareBatchNorm, Frechet mean / midpoint",
            found.ratio("frechet", to="midpoint"),
            20.0,
            better="higher",
            detail=_milliseconds(found, "frechet", "midpoint") + f", {shape}",
        ),
        peer("Frechet mean"),
        peer("midpoint"),
        Row(
            "PoincareBatchNorm / BatchNorm",
            found.ratio("midpoint", to="Euclidean"),
            detail=_milliseconds(found, "midpoint", "Euclidean"),
        ),
    ]


def _networks(depth: int, batch: int, steps: int) -> list[Row]:
    ours = _Steps(models.poincare_resnet(depth), batch)
    plain = _Steps(models.poincare_resnet(depth, implementation="autodiff"), batch)
    twin = _Steps(models.euclidean_twin(depth), batch)
    found = time_in_turn({"ours": ours, "twin": twin, "autodiff": plain}, repeats=steps, warm_up=1)
    return [
        Row(
            f"PoincareResNet-{depth} train step / Euclidean twin",
            found.ratio("ours", to="twin"),
            2.5,
            detail=_milliseconds(found, "ours", "twin") + f", batch {batch}",
        ),
        Row(
            f"PoincareResNet-{depth} train step, own gradient / autodiff",
            found.ratio("ours", to="autodiff"),
            detail=_milliseconds(found, "ours", "autodiff") + f", batch {batch}",
        ),
        _memory(f"PoincareResNet-{depth}", plain.temporaries(), ours.temporaries()),
        Row(
            f"temporary memory, PoincareResNet-{depth} / Euclidean twin",
            ours.temporaries() / twin.temporaries(),
            detail=_mebibytes(ours.temporaries(), twin.temporaries()),
        ),
    ]


def _against_hypll(name, goal, make, ours, repeats, *, same=True) -> Row:
    """The ratio to a layer of HypLL; `same`: both must give the same output."""
    try:
        from launch.benchmarks import hypll_layers
    except ModuleNotFoundError as error:
        return needs_extra(error, name, goal, better="higher")
    peer = make(hypll_layers)
    if same:
        want = peer.output()
        apart = np.max(np.abs(ours.output() - want)) / np.max(np.abs(want))
        # Float32 coordinates on the ball, where HypLL keeps them, are good to about 1e-5.
        if not apart < 1e-3:
            raise RuntimeError(f"the two layers differ: outputs are {apart} apart")
    found = time_in_turn({"HypLL": peer, "ours": ours}, repeats=repeats)
    return Row(
        name,
        found.ratio("HypLL", to="ours"),
        goal,
        better="higher",
        detail=_milliseconds(found, "HypLL", "ours")
        + f" for output and gradients, {peer.threads} threads",
    )


def _memory(name: str, plain: int, ours: int) -> Row:
    return Row(
        f"temporary memory, {name} by autodiff / own gradient",
        plain / ours,
        2.0,
        better="higher",
        detail=_mebibytes(plain, ours),
    )


def _milliseconds(found, first: str, second: str) -> str:
    return f"{1e3 * found.median(first):.1f} and {1e3 * found.median(second):.1f} ms"


def _mebibytes(first: int, second: int) -> str:
    return f"{first / 2**20:.1f} and {second / 2**20:.1f} MiB"


def _draw(shape: tuple[int, ...], seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


class _Layer:
    """Output and gradients of one compiled layer.

    Args:
      layer: a Flax module.
      x: what it is applied to.
      cotangent: of its output.
      **options: of `layer.apply`.
    """

    def __init__(self, layer: nn.Module, x: jax.Array, cotangent: jax.Array, **options: Any):
        called = {k: v for k, v in options.items() if k != "mutable"}
        variables = layer.init(jax.random.key(0), x[:1], **called)

        def run(variables, x, cotangent):
            def apply(params, x):
                out: Any = layer.apply({**variables, "params": params}, x, **options)
                return out if "mutable" in options else (out, {})

            y, pull, updates = jax.vjp(apply, variables["params"], x, has_aux=True)
            return y, pull(cotangent), updates

        self._arguments = variables, x, cotangent
        self._run = jax.jit(run).lower(*self._arguments).compile()

    @property
    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Kernel and bias."""
        params = self._arguments[0]["params"]
        return np.asarray(params["kernel"]), np.asarray(params["bias"])

    def temporaries(self) -> int:
        """Bytes that the compiled program reserves for what it computes on the way."""
        return self._run.memory_analysis().temp_size_in_bytes

    def output(self) -> np.ndarray:
        """What the layer gives."""
        return np.asarray(self._run(*self._arguments)[0])

    def __call__(self) -> None:
        """Computes output and gradients."""
        jax.block_until_ready(self._run(*self._arguments))


class _Steps:
    """One compiled training step of a network on images of CIFAR's shape, again and again.

    Args:
      network: a Flax module.
      batch: number of images.
    """

    def __init__(self, network: nn.Module, batch: int):
        task = losses.classification(network, jax.ShapeDtypeStruct((32, 32, 3), jnp.float32))
        tx = optax.chain(optax.add_decayed_weights(1e-4), optax.adam(1e-3))
        rng = np.random.default_rng(0)
        labels = jnp.asarray(rng.integers(0, _CLASSES, batch), jnp.int32)
        images = {"image": _draw((batch, 32, 32, 3), 0), "label": labels}
        self._rest = core.Batch(images), jax.random.key(0)
        self._state = jax.jit(functools.partial(core.init_state, task, tx))(jax.random.key(0))
        step = jax.jit(functools.partial(core.train_step, task, tx), donate_argnums=0)
        self._step = step.lower(self._state, *self._rest).compile()

    def temporaries(self) -> int:
        """Bytes that the compiled step reserves for what it computes on the way."""
        return self._step.memory_analysis().temp_size_in_bytes

    def __call__(self) -> None:
        """Takes one step."""
        self._state, records = self._step(self._state, *self._rest)
        jax.block_until_ready((self._state, records))
