"""Linear probes against scikit-learn's ridge regression."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from trove_jax import analysis


def draw(seed, n=300, d=12, classes=4):
    """Overlapping clusters, of which a linear classifier gets most."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = np.random.default_rng(99).normal(size=(classes, d))
    x = centres[labels] + 1.5 * rng.normal(size=(n, d))
    return (x * np.arange(1, d + 1)).astype(np.float32), labels.astype(np.int32)


@pytest.mark.parametrize("ridge", [1e-3, 1.0])
def test_equals_ridge_regression(ridge):
    (x, y), (xt, yt) = draw(0), draw(1)
    scaler = StandardScaler().fit(x.astype(np.float64))
    fitted = Ridge(alpha=ridge * len(x)).fit(scaler.transform(x), np.eye(4)[y])
    want = np.mean(fitted.predict(scaler.transform(xt)).argmax(1) == yt)
    got = jax.jit(analysis.linear_probe_accuracy, static_argnames=("classes", "ridge"))(
        x, y, xt, yt, classes=4, ridge=ridge
    )
    assert 0.4 < want < 0.99
    # Float32 scores: at most one example lies on the edge.
    assert abs(float(got) - want) <= 1 / len(yt) + 1e-6


def test_scale_order_and_dead_features_do_not_matter():
    (x, y), (xt, yt) = draw(0), draw(1)
    plain = analysis.linear_probe_accuracy(x, y, xt, yt, classes=4)
    order = np.random.default_rng(2).permutation(x.shape[1])

    def change(rows):
        dead = np.full((len(rows), 1), 7.0, np.float32)
        return np.concatenate([8.0 * rows[:, order] - 3.0, dead], axis=1).reshape(len(rows), 13, 1)

    changed = analysis.linear_probe_accuracy(change(x), y, change(xt), yt, classes=4)
    assert abs(float(plain) - float(changed)) <= 1 / len(yt) + 1e-6


def test_more_features_than_examples_are_fitted():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 50)).astype(np.float32), rng.integers(0, 3, 20).astype(np.int32)
    assert analysis.linear_probe_accuracy(x, y, x, y, classes=3) == 1.0


def test_networks_in_turn():
    (x, y), (xt, yt) = draw(0), draw(1)
    xs = jnp.stack([x, np.roll(x, 1, axis=0)])
    got = jax.vmap(lambda x: analysis.linear_probe_accuracy(x, y, xt, yt, classes=4))(xs)
    one = [analysis.linear_probe_accuracy(x, y, xt, yt, classes=4) for x in xs]
    np.testing.assert_allclose(got, one, atol=1 / len(yt) + 1e-6)
    assert got[0] > got[1] + 0.2  # labels that belong to other rows teach nothing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros(5, np.float32)}, r"features \(5,\) and its labels \(5,\)"),
        ({"labels": np.zeros(4, np.int32)}, r"features \(5, 2\) and its labels \(4,\)"),
        ({"test_features": np.zeros((0, 2), np.float32)}, r"test_features \(0, 2\)"),
        ({"test_features": np.zeros((3, 3), np.float32)}, "differ behind the first axis"),
        ({"ridge": 0.0}, "ridge=0.0 must be above 0"),
    ],
)
def test_bad_input_is_refused(change, message):
    arguments = {
        "features": np.zeros((5, 2), np.float32),
        "labels": np.zeros(5, np.int32),
        "test_features": np.zeros((3, 2), np.float32),
        "test_labels": np.zeros(3, np.int32),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        analysis.linear_probe_accuracy(**arguments, classes=2)
