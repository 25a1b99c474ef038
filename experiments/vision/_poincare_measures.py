"""The parts of the Poincare ResNet experiment that train nothing: norms, means, memory and time."""

import functools
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import trove_jax
from trove_jax.evidence import Evidence, Figure

# What a norm that has fallen to 0 counts as, relative to the inputs: 30 decades lost.
_NOTHING = 1e-30


def norms(settings: Any, keys: jax.Array) -> Evidence:
    """E1: mean norm of the tangent vectors behind every layer of fresh stacks, without batch norm.

    Args:
      settings: `depth`, `curvature`; `width` and `rows` of the dense stack; `channels`, `side` and
        `images` of the convolutions.
      keys: one for each seed, `[s]`.

    Returns:
      Arms with the metric `decades`: log10 of the last norm over that of the inputs.
    """
    layers = trove_jax.layers
    dense = functools.partial(layers.PoincareDense, settings.width, curvature=settings.curvature)
    conv = functools.partial(
        layers.PoincareConv, settings.channels, (3, 3), curvature=settings.curvature
    )
    rows = (settings.rows, settings.width)
    images = (settings.images, settings.side, settings.side, settings.channels)
    stacks = {
        "dense_half_identity": (dense(kernel_init=layers.half_identity()), rows),
        "dense_normal": (dense(kernel_init=layers.hnn_normal()), rows),
        "conv_half_identity": (conv(kernel_init=layers.half_identity()), images),
        "conv_centre_tap": (conv(kernel_init=layers.centre_tap()), images),
        "conv_normal": (conv(kernel_init=layers.hnn_normal()), images),
    }
    curves = {
        name: np.asarray(_depth_norms(layer, keys, shape, settings.depth))
        for name, (layer, shape) in stacks.items()
    }
    decades = {
        name: np.log10(np.maximum(found / found[:, :1], _NOTHING)) for name, found in curves.items()
    }
    arms = {name: {"decades": _list(found[:, -1])} for name, found in decades.items()}
    arms["inputs"] = {"decades": [0.0] * len(keys)}
    third = min(3, settings.depth)
    shown = ", ".join(f"{x:.3g}" for x in curves["conv_half_identity"].mean(axis=0)[: third + 1])
    return Evidence(
        arms=arms,
        figures=[
            Figure(
                "norms_over_depth",
                "Mean norm behind every layer of a fresh stack, in decades against its inputs.",
                functools.partial(
                    trove_jax.evidence.curves,
                    [*range(settings.depth + 1)],
                    decades,
                    xlabel="layer",
                    ylabel="log10 of the norm kept",
                ),
            )
        ],
        notes=[
            f"Norms of 3x3 convolutions that start at half of a truncated identity: {shown} "
            "(inputs and first layers). Output k takes tap k mod 9 of channel k div 9, so that few "
            "channels are read, and moved.",
        ],
        curves={f"norm_{name}": found.tolist() for name, found in curves.items()},
    )


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _depth_norms(layer, keys, shape, depth):
    """`[s, depth + 1]`."""

    def one(key):
        def body(v, key):
            v = layer.apply(layer.init(key, v), v)
            return v, jnp.linalg.norm(v, axis=-1).mean()

        draw, fresh = jax.random.split(key)
        v = jax.random.normal(draw, shape)
        first = jnp.linalg.norm(v, axis=-1).mean()
        return jnp.append(first, jax.lax.scan(body, v, jax.random.split(fresh, depth))[1])

    return jax.lax.map(one, keys)


def means(settings: Any, keys: jax.Array) -> Evidence:
    """E2, first half: midpoint against Frechet mean of random rows.

    Rows are exp_0 of s / C (g / sqrt(d) + u / 2), g normal, u a unit vector: off the centre, where
    both means would be 0.

    Args:
      settings: `rows`, `dimensions`, `spreads` (s), `curvature`, `repeats`.
      keys: one for each seed, `[s]`.

    Returns:
      Arms with the metrics `distance`, between the means in units of the standard deviation and
      the largest over dimensions and spreads, and `seconds`, the sum over them of medians.
    """
    poincare = trove_jax.geometry.poincare
    c = settings.curvature
    midpoint, frechet = (
        jax.jit(functools.partial(mean, curvature=c))
        for mean in (poincare.midpoint, poincare.frechet_mean)
    )

    @jax.jit
    def sigmas(x, a, b):
        spread = jnp.sqrt(jnp.mean(poincare.dist(x, b[None], curvature=c) ** 2))
        return poincare.dist(a, b, curvature=c) / spread

    arms: dict[str, dict[str, list[float]]] = {
        name: {"distance": [], "seconds": []} for name in ("rows_midpoint", "rows_frechet")
    }
    notes = []
    for number, key in enumerate(keys):
        apart, taken = [], {"rows_midpoint": 0.0, "rows_frechet": 0.0}
        for d in settings.dimensions:
            for spread in settings.spreads:
                x = _rows(key, settings.rows, d, spread, c)
                apart.append(float(sigmas(x, midpoint(x), frechet(x))))
                found = _medians(
                    {
                        "rows_midpoint": functools.partial(midpoint, x),
                        "rows_frechet": functools.partial(frechet, x),
                    },
                    repeats=settings.repeats,
                )
                taken = {name: taken[name] + found[name] for name in taken}
        arms["rows_midpoint"]["distance"].append(max(apart))
        arms["rows_frechet"]["distance"].append(0.0)
        for name in taken:
            arms[name]["seconds"].append(taken[name])
        if not number:
            cases = [(d, s) for d in settings.dimensions for s in settings.spreads]
            shown = ", ".join(
                f"{a:.3f} (d = {d}, spread {s:g})" for a, (d, s) in zip(apart, cases, strict=True)
            )
            notes.append(f"Midpoint to Frechet mean in standard deviations, first seed: {shown}.")
    return Evidence(arms=arms, notes=notes)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _rows(key, n, d, spread, c):
    v = jax.random.normal(key, (n, d)) / d**0.5
    v = v.at[:, 0].add(0.5)
    return trove_jax.geometry.poincare.expmap0(spread / c**0.5 * v, curvature=c)


def cost(settings: Any, seeds: int) -> Evidence:
    """E4: temporary memory and time of a network's gradient, by our rule and by autodiff.

    Args:
      settings: `depths`, `widths`, `side`, `batch`, `repeats`.
      seeds: how many times are taken; memory is the same for all.

    Returns:
      Arms `own_gradient` and `autodiff` with the metrics `temporary_mib` and `step_seconds` at the
      largest depth (the others are in the curves); `step_midpoint` and `step_frechet` with
      `step_seconds` at the smallest.
    """
    memory: dict[str, list[float]] = {"own_gradient": [], "autodiff": []}
    seconds: dict[str, list[list[float]]] = {"own_gradient": [], "autodiff": []}
    for depth in settings.depths:
        network = functools.partial(trove_jax.models.poincare_resnet, depth, widths=settings.widths)
        steps = {
            "own_gradient": _Gradient(network(), settings),
            "autodiff": _Gradient(network(implementation="autodiff"), settings),
        }
        for name, step in steps.items():
            memory[name].append(step.temporary_mib())
        times = [_medians(steps, repeats=settings.repeats) for _ in range(seeds)]
        for name in steps:
            seconds[name].append([found[name] for found in times])
    arms = {
        name: {
            "temporary_mib": [memory[name][-1]] * seeds,
            "step_seconds": _list(seconds[name][-1]),
        }
        for name in memory
    }
    arms |= _frechet_steps(settings, seeds)
    shown = "; ".join(
        f"depth {depth}: {own:.1f} and {plain:.1f} MiB, {1e3 * a:.0f} and {1e3 * b:.0f} ms"
        for depth, own, plain, a, b in zip(
            settings.depths,
            memory["own_gradient"],
            memory["autodiff"],
            (statistics.median(t) for t in seconds["own_gradient"]),
            (statistics.median(t) for t in seconds["autodiff"]),
            strict=True,
        )
    )
    return Evidence(
        arms=arms,
        notes=[
            f"Gradient of the loss by our rule and by autodiff, batch {settings.batch}: {shown}. "
            "Memory is what the compiler reserves; times are repetitions, not seeds.",
        ],
        curves={
            "cost_depths": list(settings.depths),
            **{f"cost_mib_{name}": values for name, values in memory.items()},
            **{f"cost_seconds_{name}": values for name, values in seconds.items()},
        },
    )


def _frechet_steps(settings, seeds):
    """Seconds of the gradient of the shallowest network with each of the two means."""
    module = trove_jax.models.poincare_resnet(settings.depths[0], widths=settings.widths)
    steps = {
        f"step_{mean}": _Gradient(module.clone(mean=mean), settings)
        for mean in ("midpoint", "frechet")
    }
    times = [_medians(steps, repeats=settings.repeats) for _ in range(seeds)]
    return {name: {"step_seconds": [found[name] for found in times]} for name in steps}


class _Gradient:
    """The compiled gradient of a network's loss on one batch of random images."""

    def __init__(self, module, settings):
        shape = jax.ShapeDtypeStruct((settings.side, settings.side, 3), jnp.float32)
        task = trove_jax.losses.classification(module, shape)
        images, labels = (
            jax.random.normal(jax.random.key(0), (settings.batch, *shape.shape)),
            jnp.arange(settings.batch, dtype=jnp.int32) % 10,
        )
        batch = trove_jax.core.Batch({"image": images, "label": labels})
        variables = jax.jit(task.init)(jax.random.key(1))

        def loss(params, batch):
            step = jnp.int32(0)
            return task.loss({**variables, "params": params}, batch, jax.random.key(2), step)

        self._arguments = variables["params"], batch
        self._run = jax.jit(jax.grad(loss, has_aux=True)).lower(*self._arguments).compile()

    def temporary_mib(self):
        return self._run.memory_analysis().temp_size_in_bytes / 2**20

    def __call__(self):
        return self._run(*self._arguments)


def _medians(candidates, *, repeats):
    """Median seconds of each, all taken in turn after one call that does not count."""
    taken = {name: [] for name in candidates}
    for repeat in range(-1, repeats):
        for name, call in candidates.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            if repeat >= 0:
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in taken.items()}


def _list(values):
    return [float(value) for value in values]
