"""Attention against PyTorch's, in float64, value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax.kernels import attention
from trove_jax.kernels.attention_pattern import causal, global_tokens, sliding_window

torch = pytest.importorskip("torch", reason="needs the extra bench")

N = 50
LOCAL_AND_GLOBAL = sliding_window(6, 3) | global_tokens(2)


def drawn(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("pattern", [causal(), LOCAL_AND_GLOBAL])
def test_equals_torch(pattern):
    """Two orders of summation in float64."""
    inputs = [drawn(2, N, 3, 8, seed=i) for i in range(4)]
    bias = drawn(1, 3, N, N, seed=5)
    ids = np.arange(N)
    seen = pattern.visible(ids[:, None], ids[None], 0)

    q, k, v, g = (torch.from_numpy(x).transpose(1, 2).requires_grad_() for x in inputs)
    added = torch.from_numpy(bias).requires_grad_()
    mask = added.masked_fill(~torch.from_numpy(seen), float("-inf"))
    theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    wanted = torch.autograd.grad(theirs, (q, k, v, added), g.detach())
    wanted = [theirs.detach().transpose(1, 2), *(x.transpose(1, 2) for x in wanted[:3]), wanted[3]]

    def run(q, k, v, bias, g):
        def call(q, k, v, bias):
            return attention(q, k, v, bias=bias, pattern=pattern).output

        found, pull = jax.vjp(call, q, k, v, bias)
        return found, *pull(g)

    with jax.enable_x64(True):
        found = jax.jit(run)(*map(jnp.asarray, (*inputs[:3], bias, inputs[3])))
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-10, atol=1e-12)
