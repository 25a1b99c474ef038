"""Whatever numbers come in: pruning searches refuse them by name, or prune what they promise."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import given, settings
from hypothesis import strategies as st

from trove_jax import core, search
from trove_jax.transforms import apply_mask, masked, set_mask

FEW = settings(max_examples=12, deadline=None, derandomize=True, database=None)
KEYS = core.seed_keys(2)
WEIGHTS = np.random.RandomState(0).permutation(24).reshape(2, 3, 4).astype(np.float32) + 1.0


def init(keys):
    """Two networks of one kernel whose weights are known."""
    del keys
    params = {"kernel": jnp.asarray(WEIGHTS)}
    tx = masked(optax.sgd(0.1))
    states = [tx.init({"kernel": jnp.asarray(w)}) for w in WEIGHTS]
    opt_state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    return core.TrainState(jnp.int32(0), {"params": params}, opt_state)


def train(start, mask, keys, *, stage, until=None):
    """Training that changes nothing but the step: what is pruned is known beforehand."""
    del keys, stage
    if mask is None:
        return start._replace(step=jnp.int32(until or 5))
    params = apply_mask(start.variables["params"], mask)
    return core.TrainState(jnp.int32(5), {"params": params}, set_mask(start.opt_state, mask))


def refusal(function, *arguments, **options):
    """What a function gives, or the message of its ValueError; another error ends the test."""
    try:
        return function(*arguments, **options), None
    except ValueError as error:
        return None, str(error)


@FEW
@given(
    st.integers(-1, 3),
    st.integers(-1, 3),
    st.sampled_from([0.2, 0.5, 0.9, 0.0, 1.0, -0.1, 2.0, math.nan, math.inf]),
    st.sampled_from(["global", "layerwise", "none"]),
    st.booleans(),
)
def test_every_round_prunes_its_share_of_the_smallest(rounds, rewind, rate, scope, one_shot):
    found, said = refusal(
        search.imp,
        train,
        init,
        KEYS,
        rounds=rounds,
        rewind=rewind,
        rate=rate,
        scope=scope,
        one_shot=one_shot,
    )
    if said is not None:
        assert said.startswith(("rounds=", "scope=", "rate="))
        return
    assert rounds >= 0
    assert rewind >= 0
    assert int(found.rewound.step) == rewind
    shares = [1.0 - (1.0 - rate) ** rounds] if one_shot and rounds else [rate] * rounds
    living, counts = 12, [12]
    for share in shares:
        living -= math.floor(share * living + 0.5)
        counts.append(living)
    masks = found.masks["kernel"]
    assert masks.shape == (2, len(counts), 3, 4)
    np.testing.assert_array_equal(masks.sum(axis=(2, 3)), [counts, counts])
    np.testing.assert_allclose(found.densities, np.array([counts, counts]) / 12, rtol=1e-6)
    for weights, rounds_of_one in zip(WEIGHTS, masks, strict=True):
        for mask, count in zip(rounds_of_one, counts, strict=True):
            largest = np.sort(weights.reshape(-1))[12 - count :]
            np.testing.assert_array_equal(np.sort(weights[mask]), largest)


def test_rates_of_leaves_and_one_shot_exclude_each_other():
    _, said = refusal(search.imp, train, init, KEYS, rounds=1, rates={"a": 0.1}, one_shot=True)
    assert said is not None
    assert "one_shot" in said
