"""Networks trained with drawn keys, as the experiments on them share it: arms, tasks, measures."""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import trove_jax
from trove_jax import core
from trove_jax.kernels.attention import attention as attend
from trove_jax.kernels.drawn_keys import locally_biased_permutation, unbiased_subset
from trove_jax.kernels.subsampled_attention import subsampled_attention
from trove_jax.layers import LocalSubsampledAttention, UnbiasedSubsampledAttention


class Net(NamedTuple):
    """Sizes of a network; `predicts` asks for every next token instead of one class."""

    vocabulary: int
    outputs: int
    length: int
    layers: int
    heads: int
    head_dim: int
    width: int
    feed_forward: int
    predicts: bool


class Schedule(NamedTuple):
    """How a network is trained: `switch` is the step at which rate and, for arms, kind change."""

    steps: int
    switch: int
    batch_size: int
    learning_rate: float
    last_rate: float
    warmup: int


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way of training: a kind of attention, and dropout."""

    name: str
    attention: Any = "vanilla"
    dropout: float = 0.0

    @property
    def is_sampled(self) -> bool:
        """Whether it draws keys, or windows, and so ends with a dense phase."""
        return not isinstance(self.attention, str)

    @property
    def is_drawn(self) -> bool:
        """Whether two passes differ, so that several make an ensemble."""
        return self.is_sampled and getattr(self.attention, "sigma_over_w", 1.0) > 0


class Whole(nn.Module):
    """A network of sequences without padding: their mask, which is True everywhere, is dropped."""

    network: nn.Module

    def __call__(self, tokens, mask=None, *, train=False, sample=None):
        """Applies the network."""
        del mask
        return self.network(tokens, None, train=train, sample=sample)


@functools.lru_cache(maxsize=64)
def module_of(net: Net, arm: Arm) -> Whole:
    """The network of an arm. Kinds that draw keys have the parameters of dense attention."""
    sizes: dict[str, Any] = {
        "aspect": (net.layers, net.heads),
        "head_dim": net.head_dim,
        "width": net.width,
        "feed_forward": net.feed_forward,
        "context": net.length,
        "positions": "learned",
        "attention": arm.attention,
        "dropout_rate": arm.dropout,
    }
    if net.predicts:
        return Whole(trove_jax.models.Decoder(net.vocabulary, **sizes))
    return Whole(trove_jax.models.Classifier(net.vocabulary, net.outputs, pool="mean", **sizes))


@functools.lru_cache(maxsize=64)
def task_of(net: Net, arm: Arm) -> core.Task:
    """The task of an arm; the same arguments, the same task."""
    losses = trove_jax.losses
    make = losses.token_prediction if net.predicts else losses.sequence_classification
    # Scores of a batch, all heads: 2^26 numbers at most.
    batch = max(1, (1 << 26) // (net.heads * net.length**2))
    return make(
        module_of(net, arm), length=net.length, evaluation_batch=min(batch, 1000), streams=("ssa",)
    )


DENSE = Arm("dense")


@functools.lru_cache(maxsize=16)
def optimiser(schedule: Schedule) -> optax.GradientTransformation:
    """AdamW, whose rate drops at the switch; all arms have the same."""

    def rate(step):
        step = step.astype(jnp.float32)
        found = jnp.where(
            step < schedule.switch,
            schedule.learning_rate,
            schedule.learning_rate * schedule.last_rate,
        )
        return found * jnp.minimum(1.0, (step + 1.0) / max(1, schedule.warmup))

    return optax.adamw(rate)


def load(settings, data_dir) -> trove_jax.data.SequenceData:
    """Reads the data set of a part as sequences."""
    data = trove_jax.data
    if settings.source == "digits":
        return data.digit_sequences(data_dir=data_dir)
    if settings.source == "pixels":
        return data.pixel_sequences(settings.data, data_dir=data_dir)
    options: dict[str, Any] = {}
    if settings.source == "bytes":
        options = {"unit": "bytes", "train": 0.9, "validation": 0.05}
    return data.character_windows(
        settings.data, length=settings.length, data_dir=data_dir, **options
    )


def abstract_windows(count: int, length: int) -> core.Data:
    """What `load` gives of a text for training, in shapes."""
    tokens, flags = (jax.ShapeDtypeStruct((count, length), d) for d in (jnp.int32, jnp.bool_))
    return core.Data({"tokens": tokens, "target": tokens, "mask": flags, "scored": flags})


def net_of(settings, *, vocabulary, outputs) -> Net:
    """The sizes of the network of a part."""
    sizes = ("length", "layers", "heads", "head_dim", "width", "feed_forward")
    return Net(
        vocabulary,
        outputs,
        **{name: settings[name] for name in sizes},
        predicts=settings.source != "digits",
    )


def schedule_of(config, settings) -> Schedule:
    """Steps and rates of a part; the last share of the steps is the dense phase."""
    switch = settings.steps - max(1, round(config.dense_share * settings.steps))
    return Schedule(
        settings.steps,
        switch,
        settings.batch_size,
        settings.learning_rate,
        config.dense_rate,
        settings.warmup,
    )


def arms_of(settings) -> list[Arm]:
    """The arms of a part, in order."""
    window = settings.window
    known = {
        "dense": DENSE,
        "dense_dropout": Arm("dense_dropout", dropout=settings.dropout),
        "ssa_unbiased": Arm("ssa_unbiased", UnbiasedSubsampledAttention(keys=window)),
        "ssa_local": Arm("ssa_local", _local(window, settings.sigma)),
        "local_windows": Arm("local_windows", _local(window, 0.0)),
    }
    others = [Arm(f"ssa_local_w{w}_s{s:g}", _local(w, s)) for w, s in settings.others]
    return [*(known[name] for name in settings.arms), *others]


def _local(window, sigma) -> LocalSubsampledAttention:
    return LocalSubsampledAttention(window=window, sigma_over_w=sigma / window)


class Trained(NamedTuple):
    """Variables `[s, ...]` of the finished arm and, of one that draws, sampled to the end."""

    finished: Any
    sampled: Any


def train(
    context,
    stage: str,
    net: Net,
    arm: Arm,
    schedule: Schedule,
    data,
    keys,
    *,
    ensembles: bool,
    over_seeds: str | None = None,
) -> Trained:
    """Trains all seeds of an arm, its last part with dense attention.

    With `ensembles`, an arm that draws is also trained on from the switch as before, for the same
    number of steps: what an ensemble of draws is measured on.
    """
    tx = optimiser(schedule)
    # All arms have the same variables, and start from the same values.
    start = core.init_states(task_of(net, DENSE), tx, keys)
    learn = functools.partial(
        context.train_seeds,
        tx=tx,
        data=core.Data(data.train),
        keys=keys,
        batch_size=schedule.batch_size,
        over_seeds=over_seeds,
    )
    task = task_of(net, arm)
    if not arm.is_sampled:
        state, _ = learn(stage, task, steps=schedule.steps, start=start)
        return Trained(state.variables, None)
    begun, _ = learn(f"{stage}/drawn", task, steps=schedule.switch, start=start)
    dense, _ = learn(f"{stage}/dense", task_of(net, DENSE), steps=schedule.steps, start=begun)
    if not (ensembles and arm.is_drawn):
        return Trained(dense.variables, None)
    drawn, _ = learn(f"{stage}/drawn_on", task, steps=schedule.steps, start=begun)
    return Trained(dense.variables, drawn.variables)


def plan(part: str, net: Net, arms, schedule: Schedule, *, seeds: int, ensembles: bool):
    """The stages of `train` for several arms."""
    stage = functools.partial(core.plan_stage, seeds=seeds, tx=optimiser(schedule))
    dense = [arm for arm in arms if not arm.is_sampled]
    drawn = [arm for arm in arms if arm.is_sampled]
    again = [arm for arm in drawn if arm.is_drawn and ensembles]
    rest = schedule.steps - schedule.switch
    found = []
    for name, some, steps in (
        ("dense", dense, schedule.steps),
        ("drawn keys, then dense", drawn, schedule.steps),
        ("drawn keys to the end", again, rest),
    ):
        if some:
            task = task_of(net, some[0])
            found.append(stage(f"{part}: {name}", task, runs=len(some), steps=steps))
    return found


@functools.partial(jax.jit, static_argnames=("module", "samples"))
def ensemble_accuracy(module, variables, examples, keys, samples):
    """Test accuracy in percent of the means of 1, 2, ... draws, `[s, samples]`."""

    def apply(variables, tokens, key):
        return module.apply(variables, tokens, sample=True, rngs={"ssa": key})

    def one(seed):
        variables, key = seed
        means = trove_jax.search.subsample_predict(
            apply, variables, examples["tokens"], key, samples=samples, all_counts=True
        )
        right = jnp.argmax(means, axis=-1).astype(jnp.int32) == examples["label"][None]
        return 100.0 * right.mean(axis=1)

    return jax.lax.map(one, (variables, keys))


def attention_cost(attention: Any, length: int, *, heads: int, head_dim: int) -> dict[str, float]:
    """FLOPs and temporary memory of attention and its gradient, compiled for this machine.

    All scores at once, for the dense kind too: counts of a loop over tiles are those of one tile.
    """
    x = jax.ShapeDtypeStruct((1, length, heads, head_dim), jnp.float32)
    drawn = jax.ShapeDtypeStruct((1, length), jnp.int32)

    def forward(q, k, v, drawn):
        if isinstance(attention, str):
            return attend(q, k, v, implementation="reference").output
        window = getattr(attention, "window", None)
        drawn = drawn if window else drawn[:, : attention.keys]
        return subsampled_attention(
            q, k, v, drawn, window=window, implementation="reference"
        ).output

    def step(q, k, v, drawn, cotangent):
        output, pullback = jax.vjp(lambda q, k, v: forward(q, k, v, drawn), q, k, v)
        return output, pullback(cotangent)

    compiled = jax.jit(step).lower(x, x, x, drawn, x).compile()
    return {
        "flops": float(compiled.cost_analysis()["flops"]),
        "temporary_mib": compiled.memory_analysis().temp_size_in_bytes / 2**20,
    }


@functools.partial(jax.jit, static_argnames=("attention", "n"))
def drawn_masks(attention: Any, n: int, keys: jax.Array) -> jax.Array:
    """Who sees whom in one draw of each key, bool `[draws, n, n]`, query by key."""
    positions = jnp.arange(n)

    def one(key):
        if isinstance(attention, UnbiasedSubsampledAttention):
            subset = unbiased_subset(key, n, attention.keys or round(attention.ratio * n))
            seen = jnp.zeros(n, jnp.bool_).at[subset].set(True)
            return jnp.broadcast_to(seen, (n, n))
        assert isinstance(attention, LocalSubsampledAttention)
        w = attention.window
        order = locally_biased_permutation(key, n, attention.sigma_over_w * w)
        place = jnp.zeros(n, jnp.int32).at[order].set(positions.astype(jnp.int32))
        return (positions.astype(jnp.int32) // w)[:, None] == (place // w)[None, :]

    return jax.vmap(one)(keys)


def reach_by_depth(attention: Any, n: int, layers: int, *, draws: int = 20) -> np.ndarray:
    """Share of pairs of tokens joined after 1, 2, ... layers of fresh draws, `[draws, layers]`."""
    return np.asarray(_reach(attention, n, layers, draws))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _reach(attention, n, layers, draws):
    keys = jax.random.split(jax.random.key(0), draws * layers)
    masks = drawn_masks(attention, n, keys).reshape(draws, layers, n, n)
    each = [masks[:, i] for i in range(layers)]
    reach = functools.partial(trove_jax.analysis.pathway_reach, residual=True)
    return jnp.stack([reach(each[: depth + 1]) for depth in range(layers)], axis=1)


@functools.partial(jax.jit, static_argnames=("net", "kinds"))
def support(net: Net, variables, tokens, kinds: tuple) -> tuple[jax.Array, jax.Array]:
    """What draws of some kinds keep of the attention of one dense network.

    Returns the share of attention on keys as they are drawn, `[kinds, layers]`, and the overlap of
    two heads, `[layers]`.
    """
    _, found = trove_jax.layers.capture(
        module_of(net, DENSE), variables, tokens, filter=r".*/(query|key)"
    )
    analysis = trove_jax.analysis
    queries = [x for name, x in found.items() if name.endswith("query")]
    keys = [x for name, x in found.items() if name.endswith("key")]
    maps = jnp.stack([analysis.attention_maps(q, k) for q, k in zip(queries, keys, strict=True)])
    draws = jax.random.split(jax.random.key(1), tokens.shape[0])
    masks = jnp.stack([drawn_masks(kind, net.length, draws) for kind in kinds])
    mass = [[analysis.support_mass(one, mask[:, None]).mean() for one in maps] for mask in masks]
    return jnp.array(mass), jax.lax.map(analysis.head_redundancy, maps)
