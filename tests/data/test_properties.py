"""Whatever numbers and arrays come in: public functions of data refuse them by name, or keep
what they promise."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trove_jax import data

FEW = settings(max_examples=15, deadline=None, derandomize=True, database=None)

SHAPES = st.lists(st.integers(0, 6), max_size=5).map(tuple)
DTYPES = st.sampled_from(["uint8", "int32", "int64", "float32", "bool", "complex64"])
FRACTIONS = st.floats(-0.5, 1.5) | st.sampled_from([0.0, 0.2, 0.5, 1.0, float("nan")])


@st.composite
def arrays(draw, shapes=SHAPES, dtypes=DTYPES, most=9):
    shape, dtype = draw(shapes), draw(dtypes)
    values = np.random.RandomState(draw(st.integers(0, 99))).randint(0, most, shape)
    return np.asarray(values).astype(dtype)


# Few: every shape is compiled for.
STACKS = [(2, 3, 4, 1), (1, 4, 4, 3), (0, 2, 2, 1), (2, 2, 2, 2), (1, 0, 3, 3)]
OTHERS = [(), (3,), (4, 4), (2, 3, 3), (1, 1, 2, 2, 3)]
IMAGES = arrays(st.sampled_from(STACKS), DTYPES | st.just("uint8")) | arrays(
    st.sampled_from(OTHERS)
)


def refusal(function, *arguments, **options):
    """What a function gives, or the message of its ValueError; another error ends the test."""
    try:
        return function(*arguments, **options), None
    except ValueError as error:
        return None, str(error)


@FEW
@given(arrays() | arrays(st.tuples(st.integers(0, 30)), most=4), st.integers(-3, 20))
def test_a_split_keeps_every_example_and_the_shares(labels, size):
    parts, said = refusal(data.stratified_split, labels, size=size, seed=1)
    if said is not None:
        assert said.startswith(("labels is", f"size={size}"))
        return
    rest, held = parts
    assert len(held) == size
    assert sorted([*rest, *held]) == list(range(len(labels)))
    for c in np.unique(labels):
        share = size * np.mean(labels == c)
        assert abs(np.sum(labels[held] == c) - share) < 1.0


@FEW
@given(arrays(st.tuples(st.integers(0, 30)), st.just("int32"), most=4), FRACTIONS)
def test_what_is_held_out_and_the_rest_are_all(labels, fraction):
    examples = {"x": np.arange(len(labels)), "label": labels}
    parts, said = refusal(data.holdout, examples, fraction=fraction, seed=0)
    if said is not None:
        assert f"fraction={fraction}" in said
        return
    rest, held = parts
    assert sorted([*rest["x"], *held["x"]]) == list(range(len(labels)))
    assert len(held["x"]) == round(fraction * len(labels))
    np.testing.assert_array_equal(labels[held["x"]], held["label"])


TABLES = arrays(st.tuples(st.integers(0, 25), st.just(2)), st.just("int64"), most=8)


@FEW
@given(TABLES | arrays(), st.integers(-1, 9), FRACTIONS, FRACTIONS, FRACTIONS)
def test_links_are_split_without_loss_or_leak(edges, n_node, validation, test, negatives):
    parts, said = refusal(
        data.split_links,
        edges,
        n_node,
        validation=validation,
        test=test,
        negatives=negatives,
        seed=3,
    )
    if said is not None:
        assert any(word in said for word in ("edges", "n_node", "validation=", "negatives", "only"))
        return
    links = {tuple(sorted(link)) for link in edges.tolist() if link[0] != link[1]}
    kept = [tuple(x) for x in np.concatenate([parts.train, parts.validation, parts.test]).tolist()]
    assert len(kept) == len(set(kept))
    assert set(kept) == links
    assert parts.dropped == len(edges) - len(links)
    assert len(parts.test) == int(test * len(links))
    pairs = [tuple(x) for x in parts.validation_negatives.tolist() + parts.test_negatives.tolist()]
    assert len(pairs) == len(set(pairs))
    assert not set(pairs) & links
    assert all(0 <= u < v < n_node for u, v in pairs)


@FEW
@given(IMAGES, st.booleans())
def test_statistics_of_images(images, per_channel):
    found, said = refusal(data.image_statistics, images, per_channel=per_channel)
    if said is not None:
        assert said.startswith("images ")
        return
    axes = (0, 1, 2) if per_channel else None
    for value, wanted in zip(found, (np.mean, np.std), strict=True):
        wanted = np.broadcast_to(wanted(images / 255.0, axis=axes), images.shape[-1:])
        np.testing.assert_allclose(value, wanted, rtol=1e-5)
    standard = np.asarray(data.standardize(images, mean=found[0], std=found[1]))
    np.testing.assert_allclose(standard.mean(axis=axes), 0.0, atol=1e-4)
    np.testing.assert_allclose(standard.std(axis=axes), 1.0, atol=1e-4)


@FEW
@given(IMAGES, arrays(st.sampled_from([(), (1,), (3,), (1, 3)]), st.just("float32")))
def test_only_matching_statistics_standardise(images, mean):
    _, said = refusal(data.standardize, images, mean=mean, std=mean + np.float32(1))
    fits = images.dtype == np.uint8 and images.ndim > 0 and mean.shape == images.shape[-1:]
    assert (said is None) == fits
    assert fits or said.startswith(("images is", "mean has", "std has"))


@FEW
@given(
    IMAGES,
    st.lists(st.integers(-1, 4), min_size=2, max_size=4).map(tuple),
    st.sampled_from(["pad", "crop"]),
)
def test_images_are_brought_into_a_shape_or_refused(images, shape, fit):
    found, said = refusal(data.match_images, images, shape=shape, fit=fit)
    if said is not None:
        assert said.startswith(("images", "shape=", "fit="))
        return
    assert found.shape == (len(images), *shape)
    assert found.dtype == np.uint8
    # Black around them: nothing of grey images is lost.
    if images.shape[-1] == shape[-1]:
        assert found.sum() == images.sum()


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(IMAGES, st.integers(-1, 3))
def test_augmentation_of_any_array(images, number):
    images, key = jax.numpy.asarray(images), jax.random.key(0)
    is_stack = images.ndim == 4
    _, said = refusal(data.random_flip, key, images[:0] if is_stack else images)
    assert (said is None) == is_stack
    cut, said = refusal(data.center_crop, images, size=number)
    fits = is_stack and 0 < number <= min(images.shape[1:3])
    assert (said is None) == fits
    assert said is None or said.startswith(("images has", f"size={number}"))
    if fits:
        top, left = ((side - number) // 2 for side in images.shape[1:3])
        wanted = np.asarray(images)[:, top : top + number, left : left + number]
        np.testing.assert_array_equal(np.asarray(cut), wanted)
    if not is_stack or number < 0:
        for name in ("random_crop", "random_resized_crop"):
            option = {"padding": number} if name == "random_crop" else {"size": number}
            _, said = refusal(getattr(data, name), key, images, **option)
            assert said.startswith(("images ", "padding=", "size="))


@FEW
@given(FRACTIONS, FRACTIONS)
def test_ranges_of_random_windows(low, high):
    images = jax.numpy.zeros((1, 2, 2, 1), jax.numpy.uint8)
    for name in ("area", "aspect"):
        most = 1.0 if name == "area" else np.inf
        if 0.0 < low <= high <= most:
            continue
        _, said = refusal(
            data.random_resized_crop, jax.random.key(0), images, size=2, **{name: (low, high)}
        )
        assert said.startswith(f"{name}=")


@FEW
@given(
    st.integers(-1, 12) | st.just(2.0) | st.booleans(),
    st.integers(-1, 4),
    st.integers(-1, 5),
    st.integers(0, 3) | st.just("2"),
)
def test_sequence_tasks_of_any_numbers(size, low, high, symbols):
    """Only what is refused before anything is drawn: the rest is tested beside the tasks."""
    key = jax.random.key(0)
    good_size = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    if not good_size or low < 1 or high < low:
        _, said = refusal(data.parity, key, train=size, min_length=low, max_length=high)
        assert said.startswith(("train=", "min_length=", "max_length="))
    if not isinstance(symbols, int) or symbols < 2:
        _, said = refusal(data.copy_paste, key, train=1, symbols=symbols)
        assert said.startswith("symbols=")


@FEW
@given(st.text(max_size=12))
def test_unknown_names_are_refused(name):
    for function in (data.describe, data.load_images, data.input_shape, data.load_graph):
        _, said = refusal(function, name)
        assert name in data.DATA_SETS or (said and "\n" not in said)


@FEW
@given(arrays(), arrays())
def test_digests_of_contents_tell_names_shapes_and_values_apart(one, two):
    both = {"a": one, "b": two}
    digest = data.contents_sha256(both)
    assert digest == data.contents_sha256(dict(reversed(both.items())))
    assert digest != data.contents_sha256({"a": one, "c": two})
    same = one.dtype == two.dtype and one.shape == two.shape and np.array_equal(one, two)
    assert same == (digest == data.contents_sha256({"a": two, "b": one}))
