"""Whatever numbers and arrays come in: public functions of core refuse them by name, or keep
what they promise."""

import jax
import numpy as np
import optax
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.core.problems import TASK, make_data
from trove_jax import core

FEW = settings(max_examples=15, deadline=None, derandomize=True, database=None)

# Few: every shape is compiled for.
SHAPES = st.sampled_from([(), (0,), (1,), (3,), (4,), (0, 2), (3, 4), (1, 2, 2)])
DTYPES = st.sampled_from(["float32", "float16", "int32", "uint8", "bool", "complex64"])


@st.composite
def arrays(draw, shapes=SHAPES, dtypes=DTYPES):
    """Arrays of any shape and dtype, as jax has them; few values, so that there are ties."""
    shape, dtype = draw(shapes), draw(dtypes)
    values = np.random.RandomState(draw(st.integers(0, 99))).randint(0, 4, shape)
    return jax.numpy.asarray(np.asarray(values).astype(dtype))


def refusal(function, *arguments, **options):
    """What a function gives, or the message of its ValueError; another error ends the test."""
    try:
        return function(*arguments, **options), None
    except ValueError as error:
        return None, str(error)


def is_scores(array) -> bool:
    return array.ndim == 1 and array.size > 0 and array.dtype.kind == "f"


def order_of(positive, negative):
    """Comparisons of all pairs, counted one by one."""
    wins = [float(p > n) + 0.5 * float(p == n) for p in positive for n in negative]
    ranks = [
        1 + sum(n > p for n in negative) + 0.5 * sum(n == p for n in negative) for p in positive
    ]
    return np.mean(wins), np.mean([1 / rank for rank in ranks])


@FEW
@given(arrays(), arrays(), st.integers(-2, 7))
def test_rankings_of_any_arrays(positive, negative, k):
    good = is_scores(positive) and is_scores(negative) and positive.dtype == negative.dtype
    area, said = refusal(core.auc, positive, negative)
    assert (said is None) == good
    assert good or "positive is" in said or "negative is" in said
    hits, said = refusal(core.hits_at_k, positive, negative, k)
    assert (said is None) == (good and k >= 1)
    assert said is None or said.startswith(("positive is", "negative is", f"k={k}"))
    if good:
        lists = [np.asarray(x, np.float64).tolist() for x in (positive, negative)]
        wanted, reciprocal = order_of(*lists)
        np.testing.assert_allclose(area, wanted, rtol=1e-6)
        found = core.mean_reciprocal_rank(positive, negative)
        np.testing.assert_allclose(found, reciprocal, rtol=1e-6)
        assert hits is None or 0.0 <= float(hits) <= 1.0


@FEW
@given(arrays(), arrays())
def test_reciprocal_ranks_of_any_arrays(positive, negative):
    _, said = refusal(core.mean_reciprocal_rank, positive, negative)
    assert said is None or said.startswith(("positive is", "negative is", "negative has"))


@FEW
@given(arrays(), arrays(), st.none() | arrays(), st.integers(-1, 6))
def test_rankings_of_nodes_of_any_arrays(scores, targets, excluded, k):
    found, said = refusal(core.node_ranking, scores, targets, excluded, k=k)
    if said is not None:
        assert said.startswith(("scores is", "targets is", "excluded is", f"k={k}"))
        return
    for values in found[:-1]:
        assert values.shape == scores.shape[:1]
        assert np.all((np.asarray(values) >= 0) & (np.asarray(values) <= 1 + 1e-6))


@FEW
@given(st.integers(-2, 6), st.integers(0, 2**31 - 1))
def test_keys_of_seeds_do_not_depend_on_how_many_there_are(seeds, root):
    keys, said = refusal(core.seed_keys, seeds, root=root)
    if seeds < 1:
        assert f"seeds={seeds}" in said
        return
    words = np.asarray(jax.random.key_data(keys))
    np.testing.assert_array_equal(
        words, np.asarray(jax.random.key_data(core.seed_keys(6, root=root)))[:seeds]
    )
    assert len(np.unique(words, axis=0)) == seeds


@FEW
@given(st.sampled_from([0, 1, 2, 30]), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_visits_every_example_once(size, epoch, seed):
    order = core.epoch_order(jax.random.key(seed), epoch, size)
    assert sorted(order.tolist()) == list(range(size))


@FEW
@given(st.dictionaries(st.sampled_from(["seed", "data", "model", "rows"]), st.integers(1, 3)))
def test_meshes_of_any_axes(axes):
    mesh, said = refusal(core.make_mesh, axes)
    wanted = int(np.prod(list(axes.values()))) if axes else jax.device_count()
    if "rows" in axes or wanted > jax.device_count():
        assert said.startswith("axes")
    else:
        assert dict(mesh.shape) == (axes or {"seed": jax.device_count()})


@FEW
@given(st.integers(-2, 3), st.integers(-2, 3))
def test_stopping_rules_of_any_numbers(first, second):
    _, said = refusal(core.windowed, first, second)
    assert (said is None) == (first >= 1 and second >= 0)
    assert said is None or f"window={first}, start={second}" in said
    _, said = refusal(core.patience, first)
    assert (said is None) == (first >= 1)
    _, said = refusal(core.keep_best, TASK, lambda variables, batch: 0.0, every=first)
    assert (said is None) == (first >= 1)
    assert said is None or f"every={first}" in said


@FEW
@given(st.lists(st.floats(width=32, allow_nan=True, allow_infinity=False), max_size=20))
def test_patience_stops_when_a_loop_would(losses):
    rule, best, since = core.patience(3), np.inf, 0
    state = rule.init()
    for step, loss in enumerate(losses):
        is_best = loss < best
        best, since = (loss, 0) if is_best else (best, since + 1)
        state, stop = rule.update(
            state, jax.numpy.float32(loss), jax.numpy.bool(is_best), jax.numpy.int32(step)
        )
        assert bool(stop) == (since >= 3)


@FEW
@given(arrays())
def test_digests_tell_shape_dtype_and_values_apart(array):
    array = np.asarray(array)
    digest = core.array_digest(array)
    assert digest == core.array_digest(array.copy(order="F"))
    assume(array.size and array.ndim)
    assert digest != core.array_digest(array.reshape(1, *array.shape))
    changed = array.copy()
    changed.reshape(-1)[-1] = not changed.reshape(-1)[-1]
    assert digest != core.array_digest(changed)


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(
    st.integers(-2, 2),
    st.sampled_from([None, -1, 0, 1, 11]),
    st.sampled_from([None, 0, -5]),
    st.sampled_from([None, "loop"]),
)
def test_training_refuses_numbers_that_do_not_fit(steps, batch_size, chunk_steps, over_seeds):
    """Each call is wrong in one of its numbers; a right one would be trained elsewhere."""
    wrong = {
        "steps": steps < 0,
        "batch_size": batch_size in (-1, 0, 11),
        "chunk_steps": chunk_steps is not None,
        "over_seeds": over_seeds is not None,
    }
    assume(any(wrong.values()))
    with pytest.raises(ValueError, match="|".join(name for name in wrong if wrong[name])):
        core.train_seeds(
            TASK,
            optax.sgd(0.1),
            make_data(10),
            core.seed_keys(2),
            steps=steps,
            batch_size=batch_size,
            chunk_steps=chunk_steps,
            over_seeds=over_seeds,
        )
