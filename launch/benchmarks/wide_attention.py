"""One wide layer against four layers, with as many heads in all: a text classifier on a CPU.

The byte-level classifier of the Long Range Arena: width 256, heads of size 64, feed-forward parts
of 1024, 1000 bytes. Sixteen heads stand in four layers (deep) or in one (wide). What attention
costs is the same for both; the wide one has a quarter of the feed-forward parts and of the steps
that wait for one another. The paper reports a wide model that is 3.1 times as fast on its CPU, with
about half the parameters. Its time is shown as a measure and is no goal: the wide model saves three
of four feed-forward parts, and all four take two fifths of the deep one's operations.

Reference: Brown et al., Wide Attention Is The Way Forward For Transformers?, 2022.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmarks.timing import Row, time_in_turn
from trove_jax import analysis, models

_VOCABULARY, _CLASSES = 257, 2
_DEEP, _WIDE = (4, 4), (1, 16)
_REPORTED = 3.1


def measure(quick: bool = False) -> list[Row]:
    """Compares inference time at two batch sizes, and parameters."""
    width, head_dim, length = (32, 8, 64) if quick else (256, 64, 1000)
    sizes = {"width": width, "head_dim": head_dim, "length": length}
    make = functools.partial(
        models.Classifier,
        _VOCABULARY,
        _CLASSES,
        head_dim=head_dim,
        width=width,
        feed_forward=4 * width,
        context=length,
    )
    deep, wide = make(aspect=_DEEP), make(aspect=_WIDE)
    variables = {"deep": _variables(deep, length), "wide": _variables(wide, length)}
    counts = {name: analysis.parameter_count(each) for name, each in variables.items()}
    rows = [
        Row(
            f"parameters, {_text(_WIDE)} / {_text(_DEEP)}",
            counts["wide"] / counts["deep"],
            detail=f"{counts['wide']} and {counts['deep']}, embedding and head too",
        ),
        Row(
            f"operations, {_text(_DEEP)} / {_text(_WIDE)}",
            _operations(_DEEP, **sizes) / _operations(_WIDE, **sizes),
            better="higher",
            detail="products of matrices in the layers, by hand: what time would follow without "
            "waiting for memory or for one another",
        ),
    ]
    for batch in (1, 2) if quick else (1, 32):
        tokens = _tokens(batch, length)
        candidates = {
            name: functools.partial(_run, jax.jit(model.apply), variables[name], tokens)
            for name, model in (("deep", deep), ("wide", wide))
        }
        repeats = 2 if quick else 30 if batch == 1 else 5
        found = time_in_turn(candidates, repeats=repeats, warm_up=2)
        rows.append(
            Row(
                f"inference, {_text(_DEEP)} / {_text(_WIDE)}, batch {batch}",
                found.ratio("deep", to="wide"),
                better="higher",
                detail=f"{length} bytes, ms: {1e3 * found.median('deep'):.1f} and "
                f"{1e3 * found.median('wide'):.1f}; the paper reports {_REPORTED}",
            )
        )
    return rows


def _operations(aspect, *, width, head_dim, length) -> int:
    """Floating-point operations of the layers for one text, with feed-forward parts of 4 width."""
    layers, heads = aspect
    weights = 4 * width * heads * head_dim + 8 * width**2
    return layers * (2 * length * weights + 4 * length**2 * heads * head_dim)


def _variables(model, length):
    """Parameters of the right shapes; what they are makes no difference to the time."""
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.05 * rng.standard_normal(leaf.shape), leaf.dtype), shapes
    )


def _tokens(batch, length):
    return jnp.asarray(np.random.default_rng(1).integers(1, 257, (batch, length)), jnp.int32)


def _run(apply, variables, tokens) -> None:
    jax.block_until_ready(apply(variables, tokens))


def _text(aspect) -> str:
    """Layers and heads of each, as the paper writes them."""
    return f"{aspect[0]}x{aspect[1]}"
