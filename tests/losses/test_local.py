"""Local losses: gradients stay in their parts, and three ways of taking them agree."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.contracts import ArrayContract, cases, holds
from tests.models.variables import random_variables
from trove_jax import core, layers, losses, models

RULES = {
    "predsim": (layers.predsim(0.7), "vector", None),
    "auglocal": (layers.auglocal(2), "vector", "batch"),
    "infopro": (layers.infopro(size=4, channels=2), "image", "batch"),
}
LABELS = np.array([0, 2, 1, 1, 0, 2], np.int32)


def images(kind="image"):
    shape = (6, 4, 4, 2) if kind == "image" else (6, 5)
    return jnp.asarray(np.random.default_rng(0).random(shape), jnp.float32)


def make(rule, *, parts=None, kind="image", norm="batch", dropout=0.0):
    if kind == "image":
        units, head = (models.StemUnit(3), models.StemUnit(4)), models.PoolHead(3)
    else:
        units, head = models.mlp_units((7, 6, 5), classes=3, norm=norm, dropout_rate=dropout)
    chain = models.local_chain(units, head, rule, parts=parts)
    return chain, random_variables(chain, images(kind).shape)


def gradient(chain, variables, x, implementation, **options):
    """Value and gradient of the sum, as the train loop takes them."""

    def total(params):
        found = losses.local_losses(
            chain,
            {**variables, "params": params},
            x,
            LABELS,
            implementation=implementation,
            **options,
        )
        return found.values.sum(), found

    return jax.jit(jax.value_and_grad(total, has_aux=True))(variables["params"])


def close(got, want, rtol=1e-4):
    """Float32 sums in another order; small entries are compared with the leaf's largest."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=rtol, atol=rtol * float(np.abs(w).max()) + 1e-7)


@pytest.mark.parametrize("rule", RULES)
def test_three_ways_to_the_same_gradient(rule):
    """Taken at once, by plain automatic differentiation, and by a loop over the parts."""
    rule, kind, norm = RULES[rule]
    chain, variables = make(rule, kind=kind, norm=norm)
    x = images(kind)
    (_, isolated), at_once = gradient(chain, variables, x, "isolated")
    (_, plain), by_autodiff = gradient(chain, variables, x, "stop_gradient")
    looped, in_turn = jax.jit(losses.local_value_and_grad, static_argnums=0)(
        chain, variables, x, LABELS
    )
    assert jax.tree.structure(at_once) == jax.tree.structure(variables["params"])
    for found, slope in ((isolated, at_once), (looped, in_turn)):
        close(slope, by_autodiff)
        close(found._asdict(), plain._asdict())
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(at_once["units_0"]))


@pytest.mark.parametrize("implementation", ["isolated", "stop_gradient"])
@pytest.mark.parametrize("rule", ["auglocal", "predsim"])
def test_the_gradient_of_a_loss_stays_in_its_part(rule, implementation):
    chain, variables = make(RULES[rule][0], kind="vector", norm=None)
    x = images("vector")

    def values(params):
        variables_now = {**variables, "params": params}
        return losses.local_losses(
            chain, variables_now, x, LABELS, implementation=implementation
        ).values

    jacobian = jax.jit(jax.jacrev(values))(variables["params"])
    for part in range(chain.parts):
        for name, leaves in jacobian.items():
            sizes = [float(jnp.abs(leaf[part]).max()) for leaf in jax.tree.leaves(leaves)]
            if name in chain.variable_names(part):
                assert max(sizes) > 0, (part, name)
            else:
                assert max(sizes) == 0, (part, name)


def test_no_gradient_reaches_the_inputs_statistics_or_outputs_of_other_parts():
    chain, variables = make(layers.greedy(), kind="vector")

    def logits(params):
        found = losses.local_losses(
            chain, {**variables, "params": params}, images("vector"), LABELS
        )
        return found.logits.sum() + sum(leaf.sum() for leaf in jax.tree.leaves(found.updates))

    slope = jax.jit(jax.grad(logits))(variables["params"])
    assert not any(bool(leaf.any()) for leaf in jax.tree.leaves(slope))


def test_one_part_is_end_to_end_backpropagation():
    chain, variables = make(layers.bp(), kind="vector")
    example = jax.ShapeDtypeStruct((5,), jnp.float32)
    batch = core.Batch({"image": images("vector"), "label": jnp.asarray(LABELS)})
    found = []
    for task in (losses.local_learning(chain, example), losses.classification(chain, example)):

        def total(params, task=task):
            return task.loss(
                {**variables, "params": params}, batch, jax.random.key(0), jnp.int32(0)
            )

        found.append(jax.jit(jax.value_and_grad(total, has_aux=True))(variables["params"]))
    ((value, aux), slope), ((want, want_aux), want_slope) = found
    close(value, want)
    close(slope, want_slope)
    close(aux.updates, want_aux.updates)
    assert float(aux.metrics["accuracy"]) == float(want_aux.metrics["accuracy"])
    close(aux.metrics["head_loss"], want)


def test_losses_by_hand():
    """One hidden layer with a linear head: both losses and the gradient in NumPy."""
    chain, variables = make(layers.greedy(), kind="vector", norm=None, parts=2)
    x = np.asarray(images("vector"), np.float64)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    unit, aux = p["units_0"], p["auxiliaries_0"]["output"]
    (w, b) = (next(v for v in jax.tree.leaves(unit) if v.ndim == n) for n in (2, 1))
    h = np.maximum(x @ w + b, 0)
    scores = h @ aux["kernel"] + aux["bias"]
    q = np.exp(scores - scores.max(1, keepdims=True))
    q /= q.sum(1, keepdims=True)
    found, slope = losses.local_value_and_grad(chain, variables, images("vector"), LABELS)
    np.testing.assert_allclose(found.values[0], -np.log(q[range(6), LABELS]).mean(), rtol=1e-5)
    back = (q - np.eye(3)[LABELS]) / 6
    np.testing.assert_allclose(
        slope["auxiliaries_0"]["output"]["kernel"], h.T @ back, rtol=1e-4, atol=1e-6
    )
    inner = (back @ aux["kernel"].T) * (h > 0)
    got = next(v for v in jax.tree.leaves(slope["units_0"]) if v.ndim == 2)
    np.testing.assert_allclose(got, x.T @ inner, rtol=1e-4, atol=1e-6)


def test_parts_see_their_weights_share_of_each_term():
    chain, variables = make(layers.predsim(0.25), kind="vector", norm=None)
    found = losses.local_losses(chain, variables, images("vector"), LABELS)
    y, outputs = chain.apply(variables, 0, images("vector"), train=True, method="part")
    want = 0.25 * losses.similarity_matching(outputs["similarity"], LABELS, classes=3)
    want = want + 0.75 * losses.cross_entropy(outputs["logits"], LABELS)
    np.testing.assert_allclose(found.values[0], want, rtol=1e-5)
    assert y.shape == (6, 7)


def test_reconstruction_is_of_the_stored_images():
    rule = layers.infopro((1.0, 1.0), (0.0, 0.0), size=4, channels=2)
    units, head = models.resnet_units((1,), width=4, classes=3)
    chain = models.local_chain(units, head, rule)
    stored = jnp.asarray(np.random.default_rng(0).integers(0, 256, (6, 4, 4, 2)), jnp.uint8)

    def prepare(x):
        return x.astype(jnp.float32) / 100 - 1

    variables = random_variables(chain, stored.shape)
    task = losses.local_learning(
        chain, jax.ShapeDtypeStruct(stored.shape[1:], jnp.float32), prepare=prepare
    )
    batch = core.Batch({"image": stored, "label": jnp.asarray(LABELS)})
    value, aux = task.loss(variables, batch, jax.random.key(0), jnp.int32(0))
    (_, outputs), _ = chain.apply(
        variables, 0, prepare(stored), train=True, method="part", mutable=["batch_stats"]
    )
    z, t = np.asarray(outputs["reconstruction"], np.float64), np.asarray(stored) / 255
    q = 1 / (1 + np.exp(-z))
    want = -(t * np.log(q) + (1 - t) * np.log(1 - q)).mean()
    np.testing.assert_allclose(value - aux.metrics["head_loss"], want, rtol=1e-4)


def test_seeds_side_by_side_are_seeds_in_turn():
    chain, _ = make(layers.auglocal(2), kind="vector", norm=None)
    x = images("vector")
    seeds = [random_variables(chain, x.shape, seed) for seed in range(3)]

    def slope(one):
        def total(params):
            return losses.local_losses(chain, {"params": params}, x, LABELS).values.sum()

        return jax.value_and_grad(total)(one["params"])

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    together, one = jax.jit(jax.vmap(slope))(stacked), jax.jit(slope)
    for i, seed in enumerate(seeds):
        close(jax.tree.map(lambda leaf, i=i: leaf[i], together), one(seed))


def test_training_lowers_every_loss_and_trains_the_network():
    units, head = models.mlp_units((16, 16, 16), classes=3, norm="batch")
    chain = models.local_chain(units, head, layers.auglocal(2))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120).astype(np.int32)
    x = (rng.normal(size=(120, 5)) + 2 * np.eye(3, 5)[labels]).astype(np.float32)
    data = core.Data({"image": jnp.asarray(x), "label": jnp.asarray(labels)})
    task = losses.local_learning(chain, jax.ShapeDtypeStruct((5,), jnp.float32))
    tx = optax.sgd(0.1, momentum=0.9)
    keys = core.seed_keys(2)
    state, history = core.train_seeds(task, tx, data, keys, steps=60, batch_size=40)
    first, last = (history.metrics["loss"][:, i] for i in (0, -1))
    assert (last < 0.6 * first).all()
    found = core.evaluate_seeds(task, state.variables, data)
    assert (found["accuracy"] > 0.85).all()  # the best possible is 0.92
    one = jax.tree.map(lambda leaf: leaf[0], state.variables)
    bare = losses.without_auxiliaries(one)
    assert sorted(bare["params"]) == ["head", "units_0", "units_1", "units_2"]
    plain = losses.local_learning(
        models.LocalChain(units, head), jax.ShapeDtypeStruct((5,), jnp.float32)
    )
    assert plain.metrics(bare, data)["accuracy"] == found["accuracy"][0]


def test_memory_is_that_of_one_part():
    """Ten equal layers: end to end all activations are alive, locally those of a few."""
    units, head = models.mlp_units((16,) * 10, classes=3)
    x = jax.ShapeDtypeStruct((2048, 16), jnp.float32)
    labels = jax.ShapeDtypeStruct((2048,), jnp.int32)

    def bytes_of(rule, implementation):
        chain = models.local_chain(units, head, rule)
        variables = jax.eval_shape(chain.init, jax.random.key(0), x)

        def total(params, x, labels):
            return losses.local_losses(
                chain, {"params": params}, x, labels, implementation=implementation
            ).values.sum()

        compiled = jax.jit(jax.grad(total)).lower(variables["params"], x, labels).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    end_to_end = bytes_of(layers.bp(), "stop_gradient")
    assert bytes_of(layers.auglocal(2), "isolated") < 0.5 * end_to_end
    assert bytes_of(layers.auglocal(2), "stop_gradient") > 0.9 * end_to_end


def test_a_failed_gradient_does_not_reach_the_next_part():
    """What orders the parts must not carry values between them."""
    chain, variables = make(layers.greedy(), kind="vector", norm=None)
    kernel = variables["params"]["auxiliaries_0"]["output"]["kernel"]
    variables["params"]["auxiliaries_0"]["output"]["kernel"] = kernel.at[0, 0].set(jnp.nan)
    (_, found), slope = gradient(chain, variables, images("vector"), "isolated")
    assert np.isnan(found.values[0])
    assert np.isfinite(found.values[1:]).all()
    for name, leaves in slope.items():
        finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(leaves))
        assert finite is (name not in chain.variable_names(0)), name


def test_dropout_needs_the_key_and_differs_between_parts():
    chain, variables = make(layers.greedy(), kind="vector", norm=None, dropout=0.5)
    values = [
        losses.local_losses(chain, variables, images("vector"), LABELS, key=jax.random.key(i))
        for i in (1, 1, 2)
    ]
    np.testing.assert_array_equal(values[0].values, values[1].values)
    assert not np.array_equal(values[0].values, values[2].values)


def test_activations_are_captured_around_plain_differentiation_only():
    chain, variables = make(layers.greedy(), kind="vector")
    x = images("vector")
    with layers.capturing(r"units_\d+") as found:
        losses.local_losses(chain, variables, x, LABELS, implementation="stop_gradient")
    assert list(found) == [f"units_{i}" for i in range(3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "labels are missing"),
        ({"implementation": "plain"}, "implementation='plain' is unknown"),
    ],
)
def test_bad_input_is_refused(change, message):
    chain, variables = make(layers.greedy(), kind="vector")
    arguments = {"labels": LABELS, **change}
    with pytest.raises(ValueError, match=message):
        losses.local_losses(chain, variables, images("vector"), **arguments)


def test_a_task_without_labels_is_refused():
    chain, variables = make(layers.greedy(), kind="vector")
    task = losses.local_learning(chain, jax.ShapeDtypeStruct((5,), jnp.float32))
    batch = core.Batch({"image": images("vector")})
    with pytest.raises(ValueError, match="labels are missing"):
        task.loss(variables, batch, jax.random.key(0), jnp.int32(0))
    # Evaluation with auxiliary networks in the variables needs none.
    assert chain.apply(variables, images("vector"), train=False).shape == (6, 3)


def test_an_auxiliary_network_without_the_output_it_weighs_is_refused():
    class Silent(nn.Module):
        weights: tuple = (("reconstruction", 1.0),)

        @nn.compact
        def __call__(self, x, *, train):
            return {"logits": nn.Dense(3)(x)}

    units, head = models.mlp_units((7, 6), classes=3)
    chain = models.LocalChain(units, head, (Silent(),))
    variables = chain.init(jax.random.key(0), images("vector"))
    with pytest.raises(ValueError, match=r"weighs \['reconstruction'\], but gives \['logits'\]"):
        losses.local_losses(chain, variables, images("vector"), LABELS)


def cosine_by_hand(rows):
    """Cosine of rows less their means, entry by entry."""
    n = len(rows)
    result = np.zeros((n, n))
    for i, j in itertools.product(range(n), repeat=2):
        a, b = rows[i] - np.mean(rows[i]), rows[j] - np.mean(rows[j])
        size = np.linalg.norm(a) * np.linalg.norm(b)
        result[i, j] = a @ b / size if size else 0.0
    return result


def test_similarity_matching_by_hand():
    x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    x[2] = 0.0
    want = np.mean((cosine_by_hand(x) - cosine_by_hand(np.eye(3)[LABELS])) ** 2)
    got = losses.similarity_matching(jnp.asarray(x), jnp.asarray(LABELS), classes=3)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_similarity_matching_of_a_constant_vector_has_a_finite_gradient():
    slope = jax.grad(losses.similarity_matching)(jnp.zeros((3, 4)), jnp.array([0, 1, 2]), classes=3)
    assert bool(jnp.isfinite(slope).all())


def similarity(x, labels):
    return losses.similarity_matching(x, labels, classes=4)


def draw_similarity(rng, n):
    return rng.normal(size=(n, 6)).astype(np.float32), rng.integers(0, 4, n).astype(np.int32)


def draw_images(rng, n):
    shape = (n, 3, 2, 1)
    return rng.normal(size=shape).astype(np.float32), rng.random(shape).astype(np.float32)


PURE = ("jit", "vmap", "float64", "bfloat16", "gradient", "empty", "single", "permutation")
CONTRACTS = {
    "similarity_matching": ArrayContract(similarity, draw_similarity, properties=PURE),
    "reconstruction_loss": ArrayContract(losses.reconstruction_loss, draw_images, properties=PURE),
}


@pytest.mark.parametrize(("name", "check"), cases(CONTRACTS))
def test_contract(name, check):
    assert holds(CONTRACTS[name], check)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not belong together"):
        losses.similarity_matching(jnp.zeros((3, 2)), jnp.zeros(4, jnp.int32), classes=2)
    with pytest.raises(ValueError, match="must have one shape"):
        losses.reconstruction_loss(jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 2, 2, 3)))
