"""Prototypes against a loop in NumPy, and classes that are small or empty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import losses

N, D, K = 60, 5, 4
RNG = np.random.default_rng(0)
LABELS = RNG.integers(-1, 2, N)
LABELS[:3] = 2  # fewer nodes than prototypes; class 3 has none
H = (RNG.normal(size=(N, D)) + 2.0 * np.eye(D)[LABELS]).astype(np.float32)

_find = jax.jit(
    lambda h, labels, key: losses.find_prototypes(
        h, labels, key, classes=K, candidates=N, prototypes=4
    )
)


def _reference(h, labels, c):
    """As the paper says it, in float64, with the percentile between two cosines."""
    members = np.flatnonzero(labels == c)
    unit = h[members].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit @ unit.T
    values = np.sort(cosines, axis=None)
    k = int(np.floor(0.4 * (len(values) - 1)))
    threshold = 0.5 * (values[k] + values[np.searchsorted(values, values[k] + 1e-9)])
    rho = np.sign(cosines - threshold).sum(1)
    eta = np.empty(len(members))
    for i in range(len(members)):
        denser = rho > rho[i]
        eta[i] = cosines[i, denser].max() if denser.any() else cosines[i].min()
    rho[eta >= 0.95] = 0.0
    return dict(zip(members.tolist(), rho.tolist(), strict=True))


@pytest.mark.parametrize("c", [0, 1])
def test_prototypes_have_the_largest_densities(c):
    found = _find(H, LABELS, jax.random.key(1))
    rho = _reference(H, LABELS, c)
    assert len(rho) > 10
    chosen = np.asarray(found.nodes[c]).tolist()
    assert bool(found.mask[c].all())
    assert len(set(chosen)) == 4
    # Equal densities may be chosen either way: what is compared is the densities.
    np.testing.assert_array_equal(
        sorted((rho[i] for i in chosen), reverse=True), sorted(rho.values(), reverse=True)[:4]
    )


def test_small_and_empty_classes_have_what_there_is():
    found = _find(H, LABELS, jax.random.key(1))
    np.testing.assert_array_equal(found.mask.sum(axis=1), [4, 4, 3, 0])
    assert set(np.asarray(found.nodes[2])[np.asarray(found.mask[2])]) == {0, 1, 2}
    nodes = jnp.arange(10, N)
    labels = losses.corrected_labels(jnp.asarray(H), found, jnp.asarray(LABELS), nodes)
    assert set(np.asarray(labels[10:])) <= {0, 1, 2}
    np.testing.assert_array_equal(labels[:10], LABELS[:10])


def test_nodes_get_the_class_of_the_largest_mean_cosine():
    found = _find(H, LABELS, jax.random.key(1))
    got = losses.corrected_labels(jnp.asarray(H), found, jnp.asarray(LABELS), jnp.arange(N))
    unit = H / np.linalg.norm(H, axis=1, keepdims=True)
    scores = np.full((N, K), -np.inf)
    for c in range(K):
        nodes = np.asarray(found.nodes[c])[np.asarray(found.mask[c])]
        if len(nodes):
            scores[:, c] = (unit @ unit[nodes].T).mean(1)
    np.testing.assert_array_equal(got, scores.argmax(1))


def test_candidates_are_drawn_anew_and_belong_to_the_class():
    labels = np.zeros(N, np.int64)
    draws = [
        losses.find_prototypes(
            jnp.asarray(H),
            jnp.asarray(labels),
            jax.random.key(seed),
            classes=1,
            candidates=5,
            prototypes=5,
        ).nodes[0]
        for seed in range(3)
    ]
    assert len({tuple(sorted(np.asarray(draw).tolist())) for draw in draws}) == 3


def test_near_copies_of_a_denser_node_do_not_stand_for_the_class():
    """Twenty copies of one direction, and others apart: one copy at most is chosen first."""
    h = np.concatenate([np.tile([[1.0, 0.0, 0.0]], (20, 1)), np.eye(3)[[1, 2]]])
    h[:20, 1] = np.linspace(0.0, 0.1, 20)
    found = losses.find_prototypes(
        jnp.asarray(h, jnp.float32),
        jnp.zeros(22, jnp.int32),
        jax.random.key(0),
        classes=1,
        candidates=22,
        prototypes=2,
    )
    rho = _reference(h, np.zeros(22, int), 0)
    assert sum(value != 0 for value in rho.values()) < 22
    got = sorted((rho[i] for i in np.asarray(found.nodes[0]).tolist()), reverse=True)
    np.testing.assert_array_equal(got, sorted(rho.values(), reverse=True)[:2])


def test_no_gradient_passes_and_a_row_of_zeros_is_finite():
    h = jnp.asarray(H).at[5].set(0.0)
    found = _find(h, LABELS, jax.random.key(0))

    def total(h):
        labels = losses.corrected_labels(h, found, jnp.asarray(LABELS), jnp.arange(N))
        return (h * labels[:, None].astype(h.dtype)).sum()

    labels = losses.corrected_labels(h, found, jnp.asarray(LABELS), jnp.arange(N))
    want = jnp.broadcast_to(labels[:, None].astype(h.dtype), h.shape)
    np.testing.assert_array_equal(jax.grad(total)(h), want)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prototypes": 9, "candidates": 8}, "prototypes=9"),
        ({"classes": 0}, "classes=0"),
        ({"quantile": 1.0}, "quantile=1.0"),
        ({"labels": jnp.zeros(3, jnp.int32)}, "labels"),
    ],
)
def test_refuses(options, message):
    labels = options.pop("labels", jnp.asarray(LABELS))
    with pytest.raises(ValueError, match=message):
        losses.find_prototypes(
            jnp.asarray(H), labels, jax.random.key(0), **{"classes": K, **options}
        )
