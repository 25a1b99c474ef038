"""The predicted random walk against direct sums and against a simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trove_jax.transforms import expected_weight_std, noisy


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.55, 1.0, 1.7])
def test_equals_the_direct_sum(gamma):
    steps = np.array([0, 1, 2, 63, 64, 65, 100, 20_000, 1_000_000])
    powers = np.cumsum(np.arange(1, steps.max() + 1, dtype=np.float64) ** -gamma)
    want = 0.1 * np.sqrt(0.01 * np.where(steps > 0, powers[np.maximum(steps, 1) - 1], 0.0))
    got = expected_weight_std(0.1, 0.01, gamma, steps=steps)
    # Rounding of a sum of a million terms.
    np.testing.assert_allclose(got, want, rtol=1e-10)
    assert expected_weight_std(0.1, 0.01, gamma, steps=100) == pytest.approx(want[6])


@pytest.mark.parametrize(
    ("learning_rate", "steps", "want"),
    [(0.1, 1000, 0.069), (0.1, 20_000, 0.138), (0.1, 100_000, 0.198), (0.01, 1000, 0.0069)],
)
def test_has_the_known_values(learning_rate, steps, want):
    assert expected_weight_std(learning_rate, 0.01, steps=steps) == pytest.approx(want, rel=0.01)


def test_a_start_adds_in_squares():
    assert expected_weight_std(0.1, 0.01, steps=20_000, start=0.1) == pytest.approx(0.17, abs=2e-3)
    assert expected_weight_std(0.1, 0.0, steps=5, start=0.3) == 0.3


def test_is_what_sgd_does_without_a_true_gradient():
    tx = noisy(optax.sgd(0.1), eta=0.01, key=0)
    params = {"w": jnp.zeros(20_000)}
    zero = {"w": jnp.zeros(20_000)}

    def step(carry, _):
        params, state = carry
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(zero, state, params)
        return (optax.apply_updates(params, updates), state), None

    (end, _), _ = jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), length=300))()
    want = expected_weight_std(0.1, 0.01, steps=300)
    # Five standard errors of a standard deviation of 20,000 values.
    np.testing.assert_allclose(np.std(end["w"]), want, rtol=5 / np.sqrt(2 * 20_000))


@pytest.mark.parametrize("bad", ["learning_rate", "eta", "gamma", "steps", "start"])
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_bad_arguments_are_refused(bad, value):
    arguments = {"learning_rate": 0.1, "eta": 0.01, "gamma": 0.55, "steps": 5, "start": 0.0}
    arguments[bad] = value
    with pytest.raises(ValueError, match=bad):
        expected_weight_std(arguments.pop("learning_rate"), arguments.pop("eta"), **arguments)
