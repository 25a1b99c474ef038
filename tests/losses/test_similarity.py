"""Similarity of representations against centring matrices, scipy, and sums over all examples."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
from jax.sharding import PartitionSpec

from tests.contracts import ArrayContract, cases, holds
from trove_jax import analysis
from trove_jax.analysis import is_degenerate, linear_cka, procrustes, rbf_cka, rsa

MEASURES = {
    "linear_cka": linear_cka,
    "linear_cka_debiased": functools.partial(linear_cka, debiased=True),
    "linear_cka_feature": functools.partial(linear_cka, form="feature"),
    "linear_cka_feature_debiased": functools.partial(linear_cka, form="feature", debiased=True),
    "rbf_cka": functools.partial(rbf_cka, bandwidth=0.8),
    "rbf_cka_debiased": functools.partial(rbf_cka, debiased=True),
    "rsa": rsa,
    "procrustes": procrustes,
}


def pair(n=12, d=5, e=3, seed=0, mix=0.7):
    """Two representations that share some of their variation, with means that are not 0."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) + 1.0
    y = mix * x @ rng.normal(size=(d, e)) + rng.normal(size=(n, e)) - 2.0
    return x.astype(np.float32), y.astype(np.float32)


# One rounding of float32 is 6e-8; sums of a few hundred terms, some of which cancel, stay below
# 1e-4 of the largest. Variants are held by their definitions below.
CONTRACTS = {
    name: ArrayContract(
        jax.jit(MEASURES[name]),
        lambda rng, n: pair(n, seed=int(rng.integers(1 << 30))),
        properties=("vmap", "float64", "bfloat16", "gradient", "permutation"),
        rtol=1e-4,
    )
    for name in ("linear_cka", "rsa")
} | {
    name: ArrayContract(
        jax.jit(MEASURES[name]),
        lambda rng, n: pair(n, seed=int(rng.integers(1 << 30))),
        properties=("gradient", "permutation"),
        rtol=1e-4,
    )
    for name in ("rbf_cka", "procrustes")
}


@jax.jit
def measure_all(x, y):
    return jnp.stack([measure(x, y) for measure in MEASURES.values()])


slopes_of_all = jax.jit(jax.jacrev(measure_all, argnums=(0, 1)))


@pytest.mark.parametrize(("name", "check"), cases(CONTRACTS))
def test_contract(name, check):
    assert holds(CONTRACTS[name], check, n=8)


def by_centring_matrices(k, l):  # noqa: E741
    n = len(k)
    h = np.eye(n) - np.ones((n, n)) / n

    def hsic(a, b):
        return np.trace(h @ a @ h @ h @ b @ h)

    return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


def by_tuples(k, l):  # noqa: E741
    """The U-statistic from its definition: means over tuples of different examples."""

    def hsic(a, b):
        n = len(a)
        two = np.mean([a[i, j] * b[i, j] for i, j in itertools.permutations(range(n), 2)])
        three = np.mean([a[i, j] * b[i, q] for i, j, q in itertools.permutations(range(n), 3)])
        four = np.mean([a[i, j] * b[q, r] for i, j, q, r in itertools.permutations(range(n), 4)])
        return two + four - 2 * three

    return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


DEFINITIONS = {False: by_centring_matrices, True: by_tuples}


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("form", ["gram", "feature", "auto"])
@pytest.mark.parametrize("shape", [(7, 30, 12), (9, 4, 2)])
def test_linear_cka_is_the_definition(shape, form, debiased):
    x, y = pair(*shape)
    a, b = x.astype(np.float64), y.astype(np.float64)
    want = DEFINITIONS[debiased](a @ a.T, b @ b.T)
    # The 30 features of the first case are more than 7 examples: the U-statistics cancel to a
    # tenth of their terms.
    np.testing.assert_allclose(linear_cka(x, y, form=form, debiased=debiased), want, rtol=2e-5)


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("bandwidth", [0.5, 2.0])
def test_rbf_cka_is_the_definition(bandwidth, debiased):
    kernels = []
    x, y = pair(7, 4, 3)
    for leaf in (x.astype(np.float64), y.astype(np.float64)):
        squares = scipy.spatial.distance.pdist(leaf, "sqeuclidean")
        spread = 2 * bandwidth**2 * np.median(squares)
        kernels.append(np.exp(-scipy.spatial.distance.squareform(squares) / spread))
    got = rbf_cka(x, y, bandwidth=bandwidth, debiased=debiased)
    np.testing.assert_allclose(got, DEFINITIONS[debiased](*kernels), rtol=1e-4)


def test_rsa_is_the_correlation_of_all_cosines():
    x, y = pair()
    matrices = [
        1 - scipy.spatial.distance.cdist(leaf, leaf, "cosine")
        for leaf in (x.astype(np.float64), y.astype(np.float64))
    ]
    want = np.corrcoef(*(m.ravel() for m in matrices))[0, 1]
    np.testing.assert_allclose(rsa(x, y), want, rtol=1e-5)


@pytest.mark.parametrize("shape", [(12, 5, 5), (6, 20, 20)])
def test_procrustes_is_that_of_scipy(shape):
    x, y = pair(*shape)
    _, _, disparity = scipy.spatial.procrustes(x.astype(np.float64), y.astype(np.float64))
    np.testing.assert_allclose(1 - procrustes(x, y) ** 2, disparity, rtol=1e-4)
    # Wide representations have a rank-deficient cross-covariance; its subgradient is finite.
    slope = jax.grad(procrustes)(jnp.asarray(x), jnp.asarray(y))
    assert bool(jnp.isfinite(slope).all())
    assert float(jnp.abs(slope).max()) > 0


def test_one_for_rotations_and_scales_of_any_size():
    x, _ = pair(n=12, d=3)
    x = x - x.mean(axis=0, keepdims=True)  # cosines do not ignore the mean
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0].astype(np.float32)
    for scale in (1e-25, 1.0, 1e18):
        y = (np.float32(scale) * x) @ rotation
        np.testing.assert_allclose(measure_all(x, y), 1.0, rtol=1e-5)
        assert all(bool(jnp.isfinite(slope).all()) for slope in slopes_of_all(x, y))


# 0.1 is no sum of powers of two: its mean is off by a rounding, which is no variation.
@pytest.mark.parametrize("constant", [0.0, 0.1, -3e7])
def test_constant_representations_give_zero_and_no_gradient(constant):
    x, _ = pair(n=12, d=3)
    y = np.full((12, 3), constant, np.float32)
    values, slopes = measure_all(x, y), slopes_of_all(x, y)
    # The cosines of a representation that is 0 are all 0, of another constant one all 1.
    assert not np.any(values)
    assert not any(np.any(slope) for slope in slopes)
    assert bool(is_degenerate(jnp.asarray(y)))
    assert not bool(is_degenerate(jnp.asarray(x)))


def test_what_is_not_a_number_stays_visible():
    x, y = pair(n=12, d=3)
    x[0, 0] = np.nan
    assert np.isnan(measure_all(x, y)).all()


def test_independent_wide_features_look_alike_only_to_the_biased_estimate():
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(16, 20_000)), jnp.float32) for _ in range(2))
    assert linear_cka(x, y) > 0.99
    # Debiased: mean 0; the standard deviation is about sqrt(2) / 16 = 0.09, and 4 of them are
    # passed once in 16,000 draws.
    assert abs(linear_cka(x, y, debiased=True)) < 0.36


def test_axes_behind_the_first_are_features():
    x, y = pair(8, 12, 6)
    found = linear_cka(x.reshape(8, 2, 6), y.reshape(8, 3, 1, 2))
    np.testing.assert_allclose(found, linear_cka(x, y))


SHARDED = ["linear_cka", "linear_cka_feature_debiased", "rsa"]


def test_a_sharded_batch_is_the_whole_batch():
    x, y = (jnp.asarray(leaf) for leaf in pair(8))
    weight = jnp.eye(5) + 0.3

    def total(weight, x, y, axis_name=None):
        hidden = jnp.tanh(x @ weight)
        values = jnp.stack([MEASURES[name](hidden, y, axis_name=axis_name) for name in SHARDED])
        return jnp.sum(values * jnp.array([1.0, -2.0, 3.0])), values

    slope_and_values = jax.grad(total, has_aux=True)
    want_slope, want = jax.jit(slope_and_values)(weight, x, y)

    def mapped(weight, x, y):
        return jax.lax.pmean(slope_and_values(weight, x, y, axis_name="data"), "data")

    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, whole = PartitionSpec("data"), PartitionSpec()
    over_mesh = jax.shard_map(
        mapped, mesh=mesh, in_specs=(whole, rows, rows), out_specs=whole, check_vma=False
    )
    for slope, found in (jax.jit(over_mesh)(weight, x, y), _under_pmap(mapped, weight, x, y)):
        np.testing.assert_allclose(found, want, rtol=1e-4)
        np.testing.assert_allclose(slope, want_slope, rtol=1e-3, atol=1e-4)


def _under_pmap(function, weight, *arrays):
    shards = [leaf.reshape(2, -1, *leaf.shape[1:]) for leaf in arrays]
    out = jax.pmap(function, axis_name="data", in_axes=(None, 0, 0))(weight, *shards)
    return [leaf[1] for leaf in out]


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        ((4, 2), (5, 2), {}, "x has 4 examples and y 5"),
        ((1, 2), (1, 2), {}, "x has 1 examples; similarity needs at least 2"),
        ((3, 2), (3, 2), {"debiased": True}, "debiased similarity needs at least 4"),
        ((4,), (4, 2), {}, r"x is float32 \[4\]; floating-point \[b, ...\] is wanted"),
        ((4, 2), (4, 2), {"form": "grams"}, "form='grams' is unknown"),
    ],
)
def test_bad_input_is_refused(x, y, options, message):
    with pytest.raises(ValueError, match=message):
        linear_cka(jnp.ones(x), jnp.ones(y), **options)


def test_other_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"y is int32 \[4, 2\]"):
        rsa(jnp.ones((4, 2)), jnp.ones((4, 2), jnp.int32))
    with pytest.raises(ValueError, match=r"bandwidth=0\.0 must be above 0"):
        rbf_cka(jnp.ones((4, 2)), jnp.ones((4, 2)), bandwidth=0.0)
    for measure in (rsa, procrustes):
        with pytest.raises(ValueError, match="needs at least 2"):
            measure(jnp.ones((1, 2)), jnp.ones((1, 2)))


def layers(seed=0, n=12):
    x, y = pair(n, seed=seed)
    return {"one": x, "two": np.tanh(x)}, {"p": y, "q": y[:, :1], "r": np.ones_like(y)}


@pytest.mark.parametrize("debiased", [False, True])
def test_the_matrix_holds_all_pairs(debiased):
    a, b = layers()
    found = analysis.cka_matrix(a, list(b.values()), debiased=debiased)
    want = [[linear_cka(x, y, debiased=debiased) for y in b.values()] for x in a.values()]
    np.testing.assert_allclose(found, want, rtol=1e-5)
    assert not np.any(found[:, 2])


def test_sums_over_batches_are_ratios_of_mean_statistics():
    """Against U-statistics of raw kernels, from their definition by tuples."""
    batches = [layers(seed, n=5) for seed in range(3)]

    def scan(sums, batch):
        return analysis.cka_update(sums, *batch), None

    # Batches of very different scale: their raw statistics add, not their ratios.
    batches = [
        jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf * np.float32(10.0**i)), batch)
        for i, batch in enumerate(batches)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    found = analysis.cka_result(jax.lax.scan(scan, analysis.cka_init(2, 3), stacked)[0])

    def statistic(x, y):
        k, l = (np.asarray(z, np.float64) @ np.asarray(z, np.float64).T for z in (x, y))  # noqa: E741
        two, three, four = (itertools.permutations(range(5), r) for r in (2, 3, 4))
        return (
            np.mean([k[i, j] * l[i, j] for i, j in two])
            - 2 * np.mean([k[i, j] * l[i, q] for i, j, q in three])
            + np.mean([k[i, j] * l[q, r] for i, j, q, r in four])
        )

    for i, j in itertools.product(("one", "two"), ("p", "q")):
        cross, own, other = (
            sum(statistic(x[s], y[t]) for x, y in pairs)
            for s, t, pairs in (
                (i, j, [(a, b) for a, b in batches]),
                (i, i, [(a, a) for a, _ in batches]),
                (j, j, [(b, b) for _, b in batches]),
            )
        )
        got = found[["one", "two"].index(i), ["p", "q"].index(j)]
        np.testing.assert_allclose(got, cross / np.sqrt(own * other), rtol=1e-3)
    assert not np.any(found[:, 2])


def test_layers_that_do_not_fit_are_named():
    a, b = layers()
    with pytest.raises(ValueError, match=r"layer b\['q'\] has shape \(7, 1\), layer a\['one'\]"):
        analysis.cka_matrix(a, {**b, "q": b["q"][:7]})
    with pytest.raises(ValueError, match="b has no layers"):
        analysis.cka_matrix(a, [])
    with pytest.raises(ValueError, match=r"sums are of \(2, 2\) layers"):
        analysis.cka_update(analysis.cka_init(2, 2), a, b)
    with pytest.raises(ValueError, match="needs at least 4"):
        analysis.cka_update(analysis.cka_init(1, 1), [jnp.ones((3, 2))], [jnp.ones((3, 2))])
