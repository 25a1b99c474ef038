"""Flips and crops against loops, and the promises about keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from trove_jax import data
from trove_jax.data import augmentation

KEY = jax.random.key(7)
FUNCTIONS = {
    "flip": data.random_flip,
    "crop": lambda key, images: data.random_crop(key, images, padding=2),
    "resized": lambda key, images: data.random_resized_crop(key, images, size=5),
}
JITTED = {name: jax.jit(function) for name, function in FUNCTIONS.items()}


def pictures(batch=6, height=9, width=7, channels=3, dtype=np.uint8, seed=0):
    values = np.random.default_rng(seed).integers(1, 256, (batch, height, width, channels))
    return jnp.asarray(values.astype(dtype))


def test_flip_mirrors_half_of_the_images_whole():
    images = pictures(batch=2000, height=2, width=3, channels=1)
    flipped = np.asarray(data.random_flip(KEY, images))
    mirrored = 0
    for before, after in zip(np.asarray(images), flipped, strict=True):
        if np.array_equal(after, before[:, ::-1]) and not np.array_equal(after, before):
            mirrored += 1
        else:
            np.testing.assert_array_equal(after, before)
    # Binomial(2000, 1/2) has deviation 22.4; 4.5 deviations fail once in 150,000.
    assert abs(mirrored - 1000) < 101


@pytest.mark.parametrize("width", [1, 4, 5])
def test_both_forms_of_the_flip_are_the_loop(width):
    images, flip = pictures(width=width), np.array([True, False, False, True, True, False])
    expected = [x[:, ::-1] if f else x for x, f in zip(np.asarray(images), flip, strict=True)]
    for form in (augmentation._flip_by_index, augmentation._flip_by_reversal):
        np.testing.assert_array_equal(form(images, jnp.asarray(flip)), np.stack(expected))


def test_crop_against_a_loop_over_all_windows():
    padding, images = 2, pictures(batch=3000, height=4, width=5, channels=2)
    cropped = np.asarray(data.random_crop(KEY, images, padding=padding))
    counts = np.zeros((5, 5), int)
    for before, after in zip(np.asarray(images), cropped, strict=True):
        border = np.zeros((4 + 2 * padding, 5 + 2 * padding, 2), before.dtype)
        border[padding:-padding, padding:-padding] = before
        matches = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if np.array_equal(border[top : top + 4, left : left + 5], after)
        ]
        assert len(matches) == 1
        counts[matches[0]] += 1
    # Chi-square with 24 degrees of freedom exceeds 62 once in 30,000 uniform draws.
    assert ((counts - 120.0) ** 2 / 120.0).sum() < 62


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "bfloat16"])
def test_dtype_and_shape_stay(name, dtype):
    images = pictures().astype(dtype)
    result = JITTED[name](KEY, images)
    assert result.dtype == images.dtype
    assert result.shape == ((6, 5, 5, 3) if name == "resized" else images.shape)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_eager_agrees_with_jit(name):
    images = pictures()
    eager = np.asarray(FUNCTIONS[name](KEY, images), np.int32)
    # Fused arithmetic rounds differently: a value near one half may go to either grey level.
    atol = 1 if name == "resized" else 0
    np.testing.assert_allclose(eager, np.asarray(JITTED[name](KEY, images), np.int32), atol=atol)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_same_key_same_bits_other_key_other_images(name):
    images = pictures(batch=32)
    function = JITTED[name]
    first = np.asarray(function(KEY, images))
    np.testing.assert_array_equal(first, function(KEY, images))
    assert (first != np.asarray(function(jax.random.key(8), images))).any()


@pytest.mark.parametrize("name", ["flip", "crop"])
def test_vmap_over_seeds_is_the_loop(name):
    images = pictures(batch=16)
    keys = jax.random.split(KEY, 4)
    together = jax.jit(jax.vmap(FUNCTIONS[name], in_axes=(0, None)))(keys, images)
    for key, result in zip(keys, together, strict=True):
        np.testing.assert_array_equal(result, JITTED[name](key, images))


def test_vmap_of_the_resized_crop_is_the_loop():
    images = pictures(batch=8)
    keys = jax.random.split(KEY, 3)
    together = jax.jit(jax.vmap(FUNCTIONS["resized"], in_axes=(0, None)))(keys, images)
    for key, result in zip(keys, together, strict=True):
        alone = JITTED["resized"](key, images)
        # The batched product may sum in another order: a value on the edge rounds the other way.
        np.testing.assert_allclose(
            np.asarray(result, np.float32), np.asarray(alone, np.float32), atol=1
        )


@pytest.mark.parametrize("name", ["flip", "crop"])
def test_two_devices_give_the_bits_of_one(name):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    images = pictures(batch=8)
    function = JITTED[name]
    spread = function(KEY, jax.device_put(images, sharding))
    np.testing.assert_array_equal(spread, function(KEY, images))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("batch", [0, 1])
def test_empty_and_single_batches(name, batch):
    assert len(JITTED[name](KEY, pictures(batch=batch))) == batch


def test_no_padding_changes_nothing():
    images = pictures()
    np.testing.assert_array_equal(data.random_crop(KEY, images, padding=0), images)


@pytest.mark.parametrize("size", [1, 4, 7])
def test_center_crop_is_the_middle(size):
    images = pictures(height=9, width=7)
    top, left = (9 - size) // 2, (7 - size) // 2
    expected = np.asarray(images)[:, top : top + size, left : left + size]
    np.testing.assert_array_equal(data.center_crop(images, size=size), expected)


def test_the_whole_image_at_its_own_size_is_itself():
    images = pictures(height=8, width=8)
    result = data.random_resized_crop(KEY, images, size=8, area=(1.0, 1.0), aspect=(1.0, 1.0))
    np.testing.assert_array_equal(result, images)


def test_resized_crop_against_pillow():
    side, size, batch = 48, 24, 20
    coarse = np.random.default_rng(3).integers(0, 256, (batch, 6, 6, 3)).astype(np.uint8)
    smooth = [
        np.asarray(Image.fromarray(c).resize((side, side), Image.Resampling.BICUBIC))
        for c in coarse
    ]
    images = np.stack(smooth)
    result = np.asarray(data.random_resized_crop(KEY, jnp.asarray(images), size=size), np.int32)
    draws = np.asarray(jax.random.uniform(KEY, (batch, 4), jnp.float32), np.float64)
    for image, ours, (area, shape, down, right) in zip(images, result, draws, strict=True):
        share = 0.08 + 0.92 * area
        ratio = np.exp(np.log(3 / 4) + (np.log(4 / 3) - np.log(3 / 4)) * shape)
        width = min(side, side * np.sqrt(share * ratio))
        height = min(side, side * np.sqrt(share / ratio))
        left, top = (side - width) * right, (side - height) * down
        box = (left, top, left + width, top + height)
        peer = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=box)
        # Pillow rounds to whole grey levels after each of its two passes.
        assert np.abs(ours - np.asarray(peer, np.int32)).max() <= 2


def test_resized_crops_keep_to_their_ranges():
    ramp = jnp.broadcast_to(jnp.arange(64.0)[None, None, :, None], (400, 64, 64, 1))
    result = data.random_resized_crop(KEY, ramp, size=2, area=(0.25, 0.25), aspect=(1.0, 1.0))
    # A window 32 wide puts the two pixels 16 columns apart, wherever it lies.
    left, right = np.asarray(result[:, 0, :, 0]).T
    inside = (left > 16) & (right < 47)
    assert inside.sum() > 100
    np.testing.assert_allclose((right - left)[inside], 16, atol=1e-3)
    # At the edge the filter, 16 columns to each side, loses a part.
    np.testing.assert_allclose(right - left, 16, atol=2)
    assert left.min() < 10
    assert left.max() > 36


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: data.random_flip(KEY, x[0]), r"expected \[b, h, w, c\]"),
        (lambda x: data.random_crop(KEY, x[0], padding=1), r"expected \[b, h, w, c\]"),
        (lambda x: data.random_crop(KEY, x, padding=-1), "padding=-1 is negative"),
        (lambda x: data.center_crop(x, size=8), "size=8 does not fit into images of 9x7"),
        (lambda x: data.random_resized_crop(KEY, x, size=0), "size=0 is not positive"),
        (lambda x: data.random_resized_crop(KEY, x, size=3, area=(0.0, 1.0)), r"area=\(0.0, 1.0\)"),
        (lambda x: data.random_resized_crop(KEY, x, size=3, aspect=(2.0, 1.0)), "aspect="),
        (
            lambda x: data.random_resized_crop(KEY, x.astype(jnp.int32), size=3),
            "images is int32, expected uint8 or floating",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call(pictures())
