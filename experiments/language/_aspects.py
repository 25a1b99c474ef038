"""Networks of one number of heads and several depths: their kinds, tasks, training and cost."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

import trove_jax
from trove_jax import core, layers

KINDS = (
    *("vanilla", "local", "longformer", "bigbird", "sparse"),
    *("sinkhorn", "linformer", "performer", "linear", "synthesizer"),
)


def kind_of(name: str, length: int, *, head_dim: int, published: bool) -> Any:
    """Options of a kind: the published sizes, or sizes in proportion to short sequences.

    The published blocks and windows hold more tokens than a short sequence has, so that all kinds
    would see everything.
    """
    if published:
        return layers.attention_options(name, length=length)
    block = max(2, length // 4)
    return {
        "vanilla": layers.VanillaAttention,
        "local": lambda: layers.LocalAttention(block=block),
        "longformer": lambda: layers.LongformerAttention(window=block // 2 * 2),
        "bigbird": lambda: layers.BigBirdAttention(block=max(1, length // 16)),
        "sparse": lambda: layers.SparseAttention(block=block, summary=max(1, block // 4)),
        "sinkhorn": lambda: layers.SinkhornAttention(block=block, length=length),
        "linformer": lambda: layers.LinformerAttention(rank=min(16, block), length=length),
        "performer": lambda: layers.PerformerAttention(features=4 * head_dim),
        "linear": layers.LinearAttention,
        "synthesizer": lambda: layers.SynthesizerAttention(rank=min(32, block), length=length),
    }[name]()


@functools.lru_cache(maxsize=256)
def module_of(
    vocabulary: int,
    outputs: int,
    *,
    length: int,
    aspect: tuple[int, int],
    head_dim: int,
    width: int,
    feed_forward: int,
    kind: Any,
    dropout: float,
    pool: str,
) -> trove_jax.models.Classifier:
    """The network of an arm; the same arguments, the same module."""
    return trove_jax.models.Classifier(
        vocabulary,
        outputs,
        aspect=aspect,
        head_dim=head_dim,
        width=width,
        feed_forward=feed_forward,
        context=length,
        attention=kind,
        pool=pool,
        positions="learned",
        dropout_rate=dropout,
    )


@functools.lru_cache(maxsize=256)
def task_of(module: trove_jax.models.Classifier) -> core.Task:
    """The task of an arm; the same module, the same task."""
    # Scores of a batch, all heads of a layer: 2^26 numbers at most.
    batch = max(1, (1 << 26) // (module.aspect[1] * module.context**2))
    return trove_jax.losses.sequence_classification(
        module, length=module.context, evaluation_batch=min(batch, 1000)
    )


@functools.lru_cache(maxsize=16)
def optimiser(learning_rate: float, warmup: int) -> optax.GradientTransformation:
    """AdamW at a constant rate, or as the Long Range Arena where there is a warm-up."""
    if not warmup:
        return optax.adamw(learning_rate)

    def rate(step):
        step = step.astype(jnp.float32) + 1.0
        rise = jnp.minimum(1.0, step / warmup)
        return learning_rate * rise / jnp.sqrt(jnp.maximum(step, float(warmup)))

    return optax.adamw(rate, b2=0.98, weight_decay=0.1)


def load(settings: ml_collections.ConfigDict, data_dir: Any) -> trove_jax.data.SequenceData:
    """The sequences of a task, the training part cut to what the settings ask for."""
    data, length = trove_jax.data, settings.length
    if settings.source == "listops":
        return data.listops(
            jax.random.key(0),
            train=settings.train,
            validation=1,
            test=settings.test,
            max_depth=settings.max_depth,
            max_args=settings.max_args,
            min_length=settings.min_length,
            max_length=length,
        )
    if settings.source == "words":
        found = data.text_tokens(
            settings.data, length=length, vocabulary=settings.vocabulary, data_dir=data_dir
        )
    else:
        found = data.text_bytes(settings.data, length=length, data_dir=data_dir)
    # Published orders are by class or by source: a prefix would be another law.
    size = len(found.train["label"])
    kept = np.random.default_rng(0).permutation(size)[: settings.train or size]
    train = {name: values[kept] for name, values in found.train.items()}
    found.provenance["trained_on"] = len(kept)
    return found.__class__(**{**vars(found), "train": train})


def parameters(module: trove_jax.models.Classifier) -> int:
    """Number of parameters, from shapes alone."""
    tokens = jax.ShapeDtypeStruct((1, module.context), jnp.int32)
    variables = jax.eval_shape(module.init, jax.random.key(0), tokens)
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(variables["params"]))


def latencies(
    modules: dict[str, trove_jax.models.Classifier], *, batch: int, times: int, repeats: int
) -> dict[str, list[float]]:
    """Milliseconds of inference, `times` numbers for each network, measured in turns.

    Each is the median of `repeats` calls; networks take turns, so that a busy moment hits all.
    """
    calls = {}
    for name, module in modules.items():
        tokens = jnp.ones((batch, module.context), jnp.int32)
        mask = jnp.ones(tokens.shape, bool)
        shapes = jax.eval_shape(module.init, jax.random.key(0), tokens, mask)
        variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01, leaf.dtype), shapes)
        apply = jax.jit(functools.partial(module.apply, train=False))
        calls[name] = functools.partial(apply, variables, tokens, mask)
        jax.block_until_ready(calls[name]())
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(times):
        spent: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(repeats):
            for name, call in calls.items():
                began = time.perf_counter()
                jax.block_until_ready(call())
                spent[name].append(time.perf_counter() - began)
        for name, seconds in spent.items():
            found[name].append(1000.0 * float(np.median(seconds)))
    return found


def temporary_mib(module: trove_jax.models.Classifier, *, batch: int) -> float:
    """Temporary memory of a training step's loss and gradient, as compiled for this machine."""
    task = task_of(module)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((batch, module.context), jnp.int32)
    examples = {
        "tokens": tokens,
        "mask": jax.ShapeDtypeStruct(tokens.shape, jnp.bool_),
        "label": jax.ShapeDtypeStruct((batch,), jnp.int32),
    }

    def step(params, rest, examples, key):
        def loss(params):
            value, _ = task.loss({**rest, "params": params}, core.Batch(examples), key, 0)
            return value

        return jax.value_and_grad(loss)(params)

    rest = {name: leaves for name, leaves in variables.items() if name != "params"}
    key = jax.eval_shape(lambda: jax.random.key(0))
    compiled = jax.jit(step).lower(variables["params"], rest, examples, key).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 2**20
