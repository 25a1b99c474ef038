"""Error consistency against scikit-learn's kappa."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from trove_jax.analysis import error_consistency


@pytest.mark.parametrize("seed", range(5))
def test_it_is_cohens_kappa(seed):
    rng = np.random.default_rng(seed)
    a = rng.random(60) < 0.8
    b = np.where(rng.random(60) < 0.5, a, rng.random(60) < 0.7)
    got = jax.jit(error_consistency)(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(got, cohen_kappa_score(a, b), rtol=1e-5)


def test_the_ends_of_the_scale():
    right = jnp.array([True, False] * 8)
    assert float(error_consistency(right, right)) == 1.0
    assert float(error_consistency(right, ~right)) == -1.0
    everywhere = jnp.ones(4, bool)
    assert float(error_consistency(everywhere, everywhere)) == 1.0
    assert float(error_consistency(everywhere, right[:4])) == 0.0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="must both be"):
        error_consistency(jnp.ones(3, bool), jnp.ones(4, bool))
    with pytest.raises(ValueError, match="want bool"):
        error_consistency(jnp.ones(3), jnp.ones(3, bool))
