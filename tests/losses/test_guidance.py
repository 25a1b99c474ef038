"""Guidance against NumPy, and what it must leave alone: the task, the guide, the optimiser."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trove_jax import analysis, core, losses, models
from trove_jax.layers import post_activation
from trove_jax.losses import guidance_loss, guided, layer_map, module_guide, until
from trove_jax.losses.guidance import batch_first

SHAPE = jax.ShapeDtypeStruct((6,), jnp.float32)
TARGET, GUIDE = models.DeepMLP(depth=4, width=5, classes=3), models.MLP((7, 8, 3))


def examples(n=12, seed=0):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(n, 6)), jnp.float32)
    return {"image": x, "label": jnp.asarray(rng.integers(0, 3, n), jnp.int32)}


def plain_task(**options):
    return losses.classification(TARGET, SHAPE, **options)


PLAIN, FROZEN = plain_task(), module_guide(GUIDE, SHAPE)
OFF = guided(PLAIN, FROZEN, alpha=0.0)
BATCH, KEY = core.Batch(examples()), jax.random.key(5)


def numpy_cka(x, y):
    x, y = (np.asarray(z, np.float64).reshape(len(z), -1) for z in (x, y))
    x, y = x - x.mean(0), y - y.mean(0)
    norms = [np.linalg.norm(z.T @ z) for z in (x, y)]
    return np.linalg.norm(x.T @ y) ** 2 / norms[0] / norms[1]


def numpy_layers(params, x, names):
    """Values before the nonlinearity of a perceptron, by hand."""
    found, x = [], np.asarray(x, np.float64)
    for name in names:
        x = x @ np.asarray(params[name]["kernel"], np.float64) + np.asarray(params[name]["bias"])
        found.append(x)
        x = np.maximum(x, 0)
    return found


def test_the_map_is_the_formula():
    for n, m in itertools.product(range(1, 60), range(2, 60)):
        want = tuple(min(round(i * (n - 1) / (m - 1)), n - 1) for i in range(m))
        assert layer_map(n, m) == want
        depths = layer_map(n, m, "by_depth")
        assert depths == tuple(int(np.ceil((j + 1) * n / m - 1e-9)) - 1 for j in range(m))
    assert layer_map(30, 6) == (0, 6, 12, 17, 23, 29)
    assert layer_map(7, 1) == (0,)
    assert layer_map(7, 1, "by_depth") == (6,)
    # Halves go to the even neighbour, not up.
    assert layer_map(2, 3) == (0, 0, 1)
    assert layer_map(4, 3) == (0, 2, 3)
    with pytest.raises(ValueError, match="n_guide=0"):
        layer_map(3, 0)
    with pytest.raises(ValueError, match="mode='odd' is unknown"):
        layer_map(3, 3, "odd")


def activations():
    rng = np.random.default_rng(1)
    target = {f"t{i}": jnp.asarray(rng.normal(size=(9, 4)), jnp.float32) for i in range(2)}
    guide = {f"g{i}": jnp.asarray(rng.normal(size=(9, 2, 3)), jnp.float32) for i in range(3)}
    return target, guide


@pytest.mark.parametrize("duplicates", ["sum", "last"])
@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_the_loss_is_the_sum_over_pairs(duplicates, reduce):
    target, guide = activations()
    weights = [1.0, 2.0, 4.0]
    found = guidance_loss(target, guide, duplicates=duplicates, reduce=reduce, weights=weights)
    pairs = [("t0", "g0"), ("t0", "g1"), ("t1", "g2")]  # round(0.5) is 0
    kept = pairs if duplicates == "sum" else pairs[1:]
    terms = [
        w * (1 - numpy_cka(target[a], guide[b]))
        for (a, b), w in zip(pairs, weights, strict=True)
        if (a, b) in kept
    ]
    np.testing.assert_allclose(
        found.loss, sum(terms) / (len(terms) if reduce == "mean" else 1), 1e-5
    )
    assert list(found.similarities) == [f"{a} <- {b}" for a, b in kept]
    assert int(found.degenerate) == 0


def test_names_and_indices_choose_pairs_and_other_measures_can_be_used():
    target, guide = activations()
    found = guidance_loss(target, guide, {"g2": "t0"}, similarity=analysis.rsa)
    np.testing.assert_allclose(found.loss, 1 - analysis.rsa(target["t0"], guide["g2"]), rtol=1e-6)
    found = guidance_loss(target, guide, (1, 1, 0))
    assert list(found.similarities) == ["t1 <- g0", "t1 <- g1", "t0 <- g2"]


def test_the_gradient_goes_through_the_target_only():
    target, guide = activations()
    ours, theirs = jax.grad(lambda a, b: guidance_loss(a, b).loss, argnums=(0, 1))(target, guide)
    assert all(np.any(x) for x in ours.values())
    assert not any(np.any(x) for x in theirs.values())


def test_layers_that_are_constant_are_counted_and_silent():
    target, guide = activations()
    target["t0"] = jnp.full((9, 4), 0.3)
    found, slopes = jax.value_and_grad(lambda a: guidance_loss(a, guide)[0])(target)
    assert int(guidance_loss(target, guide).degenerate) == 2
    np.testing.assert_allclose(found, 2 + 1 - numpy_cka(target["t1"], guide["g2"]), rtol=1e-5)
    assert not np.any(slopes["t0"])


def test_the_guided_loss_is_task_plus_alpha_times_guidance():
    task = guided(PLAIN, FROZEN, alpha=0.7)
    variables = task.init(jax.random.key(0))
    assert set(variables) == {"params", "guide"}
    jax.tree.map(
        np.testing.assert_array_equal, variables["params"], PLAIN.init(jax.random.key(0))["params"]
    )
    value, aux = jax.jit(task.loss)(variables, BATCH, KEY, jnp.int32(0))
    x = BATCH.examples["image"]
    ours = numpy_layers(variables["params"], x, [f"hidden_{i}" for i in range(4)])
    theirs = numpy_layers(variables["guide"]["params"], x, ["hidden_0", "hidden_1"])
    similarities = [numpy_cka(ours[0], theirs[0]), numpy_cka(ours[3], theirs[1])]
    base, _ = PLAIN.loss({"params": variables["params"]}, BATCH, KEY, jnp.int32(0))
    np.testing.assert_allclose(aux.metrics["task_loss"], base, rtol=1e-6)
    np.testing.assert_allclose(aux.metrics["guide_loss"], 2 - sum(similarities), rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["guide_similarity"], np.mean(similarities), rtol=1e-4)
    np.testing.assert_allclose(value, base + 0.7 * (2 - sum(similarities)), rtol=1e-4)
    assert not aux.updates
    found = task.metrics(variables, core.Data(examples()))
    assert float(found["accuracy"]) == float(aux.metrics["accuracy"])


ADAM, SGD = optax.adam(1e-2), optax.sgd(1e-2)


def train(task, tx=ADAM, *, steps=6, seeds=2, start=None):
    state, history = core.train_seeds(
        task, tx, core.Data(examples(24)), core.seed_keys(seeds),
        steps=steps, batch_size=12, start=start,
    )  # fmt: skip
    return state, history


def test_training_moves_the_target_towards_the_guide_and_leaves_the_guide():
    task = guided(PLAIN, FROZEN, alpha=3.0)
    start = core.init_states(task, ADAM, core.seed_keys(2))
    state, history = train(task, steps=80)
    jax.tree.map(np.testing.assert_array_equal, state.variables["guide"], start.variables["guide"])
    similarity = history.metrics["guide_similarity"]
    assert (similarity[:, -5:].mean(1) > similarity[:, :5].mean(1) + 0.15).all()
    moments = [leaf.shape for leaf in jax.tree.leaves(state.opt_state)]
    assert len(moments) == 1 + 2 * len(jax.tree.leaves(state.variables["params"]))
    # Every seed has a guide of its own.
    kernel = state.variables["guide"]["params"]["hidden_0"]["kernel"]
    assert np.any(kernel[0] != kernel[1])


def test_without_weight_the_run_is_the_unguided_one_bit_for_bit():
    plain, _ = train(PLAIN, SGD)
    off, history = train(OFF, SGD)
    jax.tree.map(np.testing.assert_array_equal, plain.variables["params"], off.variables["params"])
    jax.tree.map(np.testing.assert_array_equal, plain.opt_state, off.opt_state)
    assert "guide_loss" not in history.metrics


def test_guidance_that_stops_is_guidance_and_then_none():
    first, _ = train(guided(PLAIN, FROZEN, alpha=2.0), SGD, steps=3)
    want, _ = train(OFF, SGD, steps=6, start=first)
    got, history = train(guided(PLAIN, FROZEN, alpha=until(3, 2.0)), SGD, steps=6)
    # Another program with the same operations: rounding of a few units.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        got.variables["params"],
        want.variables["params"],
    )
    assert (np.isnan(history.metrics["guide_similarity"]) == [[False] * 3 + [True] * 3] * 2).all()
    np.testing.assert_array_equal(history.metrics["guide_loss"][:, 3:], 0.0)


def test_a_schedule_and_a_number_compare_the_same_layers():
    """Of more than ten layers: sorted by name they would be in another order."""
    task = losses.classification(models.DeepMLP(depth=12, width=5, classes=3), SHAPE)
    variables = guided(task, FROZEN).init(jax.random.key(0))
    values = [
        jax.jit(guided(task, FROZEN, alpha=alpha, mapping=(2, 9)).loss)(
            variables, BATCH, KEY, jnp.int32(3)
        )[1].metrics["guide_loss"]
        for alpha in (0.5, lambda step: 0.5)
    ]
    ours = numpy_layers(
        variables["params"], BATCH.examples["image"], [f"hidden_{i}" for i in range(12)]
    )
    theirs = numpy_layers(
        variables["guide"]["params"], BATCH.examples["image"], ["hidden_0", "hidden_1"]
    )
    want = 2 - numpy_cka(ours[2], theirs[0]) - numpy_cka(ours[9], theirs[1])
    np.testing.assert_allclose(values, want, rtol=1e-4)


def test_the_target_is_applied_once():
    """Of one dropout mask: the logits behind the loss are those of the captured layers."""
    calls = []

    class Counting(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            calls.append(train)
            x = nn.Dense(5)(nn.relu(nn.Dense(5)(x)))
            return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(x))

    task = guided(losses.classification(Counting(), SHAPE), FROZEN)
    variables = task.init(jax.random.key(0))
    calls.clear()
    _, aux = task.loss(variables, BATCH, KEY, 0)
    assert calls == [True]
    base, _ = losses.classification(Counting(), SHAPE).loss(
        {"params": variables["params"]}, BATCH, KEY, 0
    )
    np.testing.assert_allclose(aux.metrics["task_loss"], base, rtol=1e-6)


def test_a_second_guide_has_a_collection_of_its_own():
    once = guided(PLAIN, FROZEN)
    twice = guided(once, FROZEN, alpha=0.5, collection="other")
    variables = twice.init(jax.random.key(0))
    assert set(variables) == {"params", "guide", "other"}
    value, aux = twice.loss(variables, BATCH, KEY, 0)
    inner = {name: variables[name] for name in ("params", "guide")}
    base, _ = once.loss(inner, BATCH, KEY, 0)
    # The other guide sees the target, not the first guide: two layers are compared with four.
    alone = guided(PLAIN, FROZEN, collection="other")
    extra = alone.loss({k: variables[k] for k in ("params", "other")}, BATCH, KEY, 0)[1]
    np.testing.assert_allclose(aux.metrics["other_loss"], extra.metrics["other_loss"], rtol=1e-6)
    np.testing.assert_allclose(value, base + 0.5 * aux.metrics["other_loss"], rtol=1e-6)
    with pytest.raises(ValueError, match="collection='guide' is taken"):
        guided(once, FROZEN).init(jax.random.key(0))


def test_values_behind_the_nonlinearity():
    guide = module_guide(GUIDE, SHAPE, filter=post_activation)
    task = guided(PLAIN, guide, filter=post_activation)
    variables = task.init(jax.random.key(0))
    _, aux = task.loss(variables, BATCH, KEY, 0)
    x = BATCH.examples["image"]
    ours = numpy_layers(variables["params"], x, [f"hidden_{i}" for i in range(4)])
    theirs = numpy_layers(variables["guide"]["params"], x, ["hidden_0", "hidden_1"])
    pairs = [(ours[0], theirs[0]), (ours[3], theirs[1])]
    want = sum(1 - numpy_cka(np.maximum(a, 0), np.maximum(b, 0)) for a, b in pairs)
    np.testing.assert_allclose(aux.metrics["guide_loss"], want, rtol=1e-4)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(3, name="output")(nn.Dense(4, name="hidden")(x))


@pytest.mark.parametrize("mode", [False, True])
def test_the_guide_normalises_as_it_is_told_and_keeps_its_statistics(mode):
    guide = module_guide(Normed(), SHAPE, train=mode)
    task = guided(PLAIN, guide)
    variables = task.init(jax.random.key(0))
    x = BATCH.examples["image"]
    found = guide.activations(variables["guide"], (x,))["hidden"]
    mean, std = (x.mean(0), x.std(0)) if mode else (jnp.zeros(6), jnp.ones(6))
    kernel = variables["guide"]["params"]["hidden"]["kernel"]
    np.testing.assert_allclose(found, (x - mean[None]) / std[None] @ kernel, rtol=1e-3, atol=1e-4)
    assert not task.loss(variables, BATCH, KEY, 0)[1].updates


def test_controls_change_what_the_guide_sees():
    x = BATCH.examples["image"]
    other = losses.shuffled(FROZEN)
    orders = set()
    for seed in range(20):
        (moved,) = other.inputs(BATCH, jax.random.key(seed))
        place = [int(np.flatnonzero((x == row[None]).all(1))[0]) for row in moved]
        assert sorted(place) == list(range(12))
        assert all(a != b for a, b in enumerate(place))
        orders.add(tuple(place))
    assert len(orders) > 3
    with pytest.raises(ValueError, match="batch of 1 has no other order"):
        other.inputs(core.Batch(examples(1)), KEY)

    (noise,) = losses.noise_fed(FROZEN).inputs(core.Batch(examples(500)), KEY)
    want = np.random.default_rng(0).normal(size=300_000) * np.sqrt(1.01)
    # Half are cut to 0; the mean of 3,000 draws is good to 0.4 / sqrt(3000) = 0.007.
    assert noise.min() == 0.0
    assert noise.max() == 1.0
    np.testing.assert_allclose(noise.mean(), np.clip(want, 0, 1).mean(), atol=0.03)
    tokens = FROZEN._replace(inputs=lambda batch, key: (jnp.zeros((50, 9), jnp.int32), x > 0))
    drawn, mask = losses.noise_fed(tokens, vocabulary=7).inputs(BATCH, KEY)
    assert set(np.unique(drawn)) == set(range(7))
    np.testing.assert_array_equal(mask, x > 0)
    with pytest.raises(ValueError, match="needs vocabulary"):
        losses.noise_fed(tokens).inputs(BATCH, KEY)


def test_a_table_guides_as_the_network_does():
    everything = core.Batch({**examples(20), "index": jnp.arange(20)})
    wide = module_guide(models.MLP((40, 8, 3)), SHAPE)
    table = losses.tabulated(wide, everything)
    task, looked_up = guided(PLAIN, wide), guided(PLAIN, table)
    variables = task.init(jax.random.key(0))
    tables = losses.tabulate(wide, variables["guide"], everything)
    assert jax.tree.map(jnp.shape, dict(tables)) == {"hidden_0": (20, 20), "hidden_1": (20, 8)}
    rows = jnp.array([3, 19, 0, 7, 11, 5])
    batch = jax.tree.map(lambda leaf: leaf[rows], everything)
    want, _ = task.loss(variables, batch, KEY, 0)
    got, _ = looked_up.loss({**variables, "guide": tables}, batch, KEY, 0)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    drawn = looked_up.init(jax.random.key(0))["guide"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), drawn, tables)
    order = losses.shuffled(table).inputs(batch, KEY)[0]
    assert sorted(order.tolist()) == sorted(rows.tolist())
    with pytest.raises(ValueError, match="examples have no 'index'"):
        looked_up.loss({**variables, "guide": tables}, BATCH, KEY, 0)


def test_the_two_gradients_can_be_compared():
    task = guided(PLAIN, FROZEN, alpha=0.5)
    variables = task.init(jax.random.key(0))
    norms = jax.jit(lambda v: losses.gradient_norms(task, v, BATCH, KEY))(variables)

    def norm(alpha):
        loss = guided(PLAIN, FROZEN, alpha=alpha).loss
        rest = {"guide": variables["guide"]}
        slope = jax.jit(jax.grad(lambda p: loss({"params": p, **rest}, BATCH, KEY, 0)[0]))(
            variables["params"]
        )
        return optax.tree.norm(slope), slope

    plain, slope = norm(0.0)
    _, both = norm(1.0)
    np.testing.assert_allclose(norms["task"], plain, rtol=1e-5)
    difference = jax.tree.map(jnp.subtract, both, slope)
    np.testing.assert_allclose(norms["guidance"], optax.tree.norm(difference), rtol=1e-3)
    with pytest.raises(ValueError, match="task is not guided"):
        losses.gradient_norms(PLAIN, PLAIN.init(KEY), BATCH, KEY)


def test_a_sharded_step_is_the_whole_step():
    whole, sharded = (guided(PLAIN, FROZEN, axis_name=axis) for axis in (None, "data"))
    variables = whole.init(jax.random.key(0))
    want, _ = whole.loss(variables, BATCH, KEY, 0)
    shards = jax.tree.map(lambda leaf: leaf.reshape(2, 6, *leaf.shape[1:]), BATCH)

    def step(batch):
        return jax.lax.pmean(sharded.loss(variables, batch, KEY, 0)[0], "data")

    np.testing.assert_allclose(jax.pmap(step, axis_name="data")(shards), want, rtol=1e-5)


def test_batches_come_first_or_not_at_all():
    found = batch_first(
        {"a": jnp.ones((4, 4)), "b": jnp.ones((3, 4)), "c": jnp.ones((5, 4, 4)), "d": jnp.ones(2)},
        4,
    )
    assert {name: x.shape for name, x in found.items()} == {"a": (4, 4), "b": (4, 3)}


def test_bad_input_is_refused():
    target, guide = activations()
    with pytest.raises(ValueError, match="layer 'g9' of the guide; captured were g0, g1, g2"):
        guidance_loss(target, guide, {"g9": "t0"})
    with pytest.raises(ValueError, match="layer 't9' of the target; captured were t0, t1"):
        guidance_loss(target, guide, {"g0": "t9"})
    with pytest.raises(ValueError, match="2 indices for 3 layers of the guide: g0, g1, g2"):
        guidance_loss(target, guide, (0, 1))
    with pytest.raises(ValueError, match="indices below 2"):
        guidance_loss(target, guide, (0, 1, 2))
    with pytest.raises(ValueError, match=r"'t0' .* shape \(9, 4\), layer 'g0' .* \(5, 2, 3\)"):
        guidance_loss(target, {"g0": guide["g0"][:5]})
    with pytest.raises(ValueError, match="weights has 1 numbers for 3"):
        guidance_loss(target, guide, weights=[1.0])
    for name in ("duplicates", "reduce"):
        with pytest.raises(ValueError, match=f"{name}='all' is unknown"):
            guidance_loss(target, guide, **{name: "all"})
    with pytest.raises(ValueError, match=r"alpha=-1.0 must be at least 0"):
        guided(PLAIN, FROZEN, alpha=-1.0)
    with pytest.raises(ValueError, match="hand the guide to the optimiser"):
        guided(PLAIN, FROZEN, collection="params")
    task = guided(PLAIN, FROZEN)
    variables = task.init(jax.random.key(0))
    with pytest.raises(ValueError, match="has no collection 'guide'"):
        task.loss({"params": variables["params"]}, BATCH, KEY, 0)
    with pytest.raises(ValueError, match="x has 1 examples"):
        task.loss(variables, core.Batch(examples(1)), KEY, 0)
    with pytest.raises(ValueError, match=r"filter chose nothing; names called: 'hidden_0'"):
        guided(PLAIN, FROZEN, filter="conv.*").loss(variables, BATCH, KEY, 0)
