"""Skip-gram on whole sequences against a loop over pairs, as word2vec goes through them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import losses

B, L, D, M = 3, 7, 5, 4
RNG = np.random.default_rng(0)
H, C = RNG.standard_normal((2, B, L, D)).astype(np.float32)
NEGATIVE = RNG.standard_normal((B, M, D)).astype(np.float32)
loss = jax.jit(losses.skip_gram_loss, static_argnames=("window", "negatives"))


def by_loop(window, negatives):
    """For every width that word2vec may draw, all pairs within it; each has its negatives."""
    total, pairs = 0.0, 0
    for width in range(1, window + 1):
        for b in range(B):
            for i in range(L):
                for j in range(max(i - width, 0), min(i + width + 1, L)):
                    if i == j:
                        continue
                    h, c = np.float64(H[b, i]), np.float64(C[b, j])
                    drawn = np.logaddexp(0, NEGATIVE[b] @ h).mean()
                    total += np.logaddexp(0, -h @ c) + negatives * drawn
                    pairs += 1
    return total / pairs


@pytest.mark.parametrize("window", [1, 3, 10])
def test_equals_the_loop_over_pairs(window):
    found = loss(H, C, NEGATIVE, window=window, negatives=5.0)
    np.testing.assert_allclose(found, by_loop(window, 5.0), rtol=1e-5)


def test_half_precision_is_summed_in_float32():
    half = [jnp.asarray(x, jnp.bfloat16) for x in (H, C, NEGATIVE)]
    found = losses.skip_gram_loss(*half, window=3)
    assert found.dtype == jnp.float32
    wide = losses.skip_gram_loss(*(x.astype(jnp.float32) for x in half), window=3)
    # Products of bfloat16 numbers are exact in float32.
    np.testing.assert_allclose(found, wide, rtol=1e-4)


def test_descent_pulls_neighbours_together():
    def objective(tables):
        return losses.skip_gram_loss(tables[0], tables[1], NEGATIVE, window=1, negatives=1.0)

    tables = (jnp.asarray(H), jnp.asarray(C))
    step = jax.jit(lambda t: jax.tree.map(lambda x, g: x - g, t, jax.grad(objective)(t)))
    before = objective(tables)
    for _ in range(20):
        tables = step(tables)
    assert objective(tables) < before
    near = jnp.einsum("bid,bid->bi", tables[0][:, :-1], tables[1][:, 1:]).mean()
    assert near > np.einsum("bid,bid->bi", H[:, :-1], C[:, 1:]).mean()


def test_refusals():
    h = jnp.zeros((2, 4, 3))
    for arguments, options, match in (
        ((h, h[:, :3], h), {}, r"\(2, 3, 3\)"),
        ((h, h, h[:1]), {}, r"\(1, 4, 3\)"),
        ((h[0], h[0], h[0]), {}, "are wanted"),
        ((h, h, h), {"window": 0}, "window of 0"),
        ((h[:, :1], h[:, :1], h), {}, "sequences of 1"),
    ):
        with pytest.raises(ValueError, match=match):
            losses.skip_gram_loss(*arguments, **options)
