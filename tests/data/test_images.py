"""Image sets as examples, and their statistics."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import data
from trove_jax.core import DataUnavailable


@pytest.mark.parametrize(
    ("name", "train", "test", "image"),
    [("digits", 1437, 360, (8, 8, 1)), ("mnist_5k", 4000, 1000, (28, 28, 1))],
)
def test_bundled_sets(name, train, test, image):
    loaded = data.load_images(name)
    for part, size in ((loaded.train, train), (loaded.test, test)):
        assert part["image"].shape == (size, *image)
        assert part["image"].dtype == np.uint8
        assert part["label"].shape == (size,)
        assert part["label"].dtype == np.int32
    assert loaded.class_names == tuple("0123456789")
    provenance = json.loads(json.dumps(loaded.provenance))
    assert provenance == loaded.provenance
    assert provenance["name"] == name
    assert provenance["split"] == {"train": train, "test": test}
    assert len(provenance["sha256"]) == 64


def test_real_colour_images(data_dir):
    loaded = data.load_images("cifar10_20k", data_dir=data_dir)
    assert loaded.train["image"].shape == (20_000, 32, 32, 3)
    mean, std = data.image_statistics(loaded.train["image"])
    # Published for the 50,000; 20,000 images with a deviation of 0.12 between image means give a
    # standard error below 0.001.
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=0.004)
    np.testing.assert_allclose(std, [0.2470, 0.2435, 0.2616], atol=0.004)


@pytest.mark.parametrize(
    ("name", "mean", "std"), [("mnist", 0.1307, 0.3081), ("fashion_mnist", 0.2860, 0.3530)]
)
def test_real_statistics_are_the_published_ones(data_dir, name, mean, std):
    loaded = data.load_images(name, data_dir=data_dir)
    found = data.image_statistics(loaded.train["image"])
    # Published to four digits; the grey levels that the file of MNIST has off move std by 1e-4.
    np.testing.assert_allclose(np.ravel(found), [mean, std], atol=2e-4)
    assert ("remark" in loaded.provenance) == (name == "mnist")


def test_refuses_what_it_cannot_load(cache):
    with pytest.raises(ValueError, match="did you mean 'cifar10'"):
        data.load_images("cifar")
    with pytest.raises(ValueError, match=r"read it with data\.ImageFolder"):
        data.load_images("imagenet")
    with pytest.raises(DataUnavailable, match="mnist is not here"):
        data.load_images("mnist")


def test_download_is_asked_for_explicitly(cache, monkeypatch):
    asked = []
    monkeypatch.setattr("trove_jax.data.images.prepare", lambda data_set: asked.append(data_set))
    with pytest.raises(DataUnavailable):
        data.load_images("mnist", download=True)
    data.load_images("digits", download=True)
    assert [data_set.name for data_set in asked] == ["mnist"]


@pytest.mark.parametrize("per_channel", [True, False])
def test_statistics_against_float64(per_channel):
    images = np.random.default_rng(0).integers(0, 256, (5000, 3, 4, 2)).astype(np.uint8)
    images[..., 1] //= 3
    scaled = images.astype(np.float64) / 255
    axes = (0, 1, 2) if per_channel else None
    mean, std = data.image_statistics(images, per_channel=per_channel)
    np.testing.assert_array_equal(mean, np.full(2, scaled.mean(axes)).astype(np.float32))
    np.testing.assert_allclose(std, np.full(2, scaled.std(axes)), rtol=1e-7)


def test_statistics_do_not_overflow():
    images = np.full((20_000, 28, 28, 1), 255, np.uint8)
    images[::2] = 254
    mean, std = data.image_statistics(images)
    np.testing.assert_allclose([mean[0], std[0]], [254.5 / 255, 0.5 / 255], rtol=1e-6)


@pytest.mark.parametrize(
    "images",
    [np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3, 3, 1)), np.zeros((0, 3, 3, 1), np.uint8)],
)
def test_statistics_refuse_other_arrays(images):
    with pytest.raises(ValueError, match=r"expected uint8 \[n, h, w, c\]"):
        data.image_statistics(images)


def test_statistics_refuse_a_constant_channel():
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 2, 3)).astype(np.uint8)
    images[..., 2] = 7
    with pytest.raises(ValueError, match=r"constant channel \(2\)"):
        data.image_statistics(images)


def test_standardized_images_have_mean_zero_and_deviation_one():
    images = data.load_images("mnist_5k").train["image"]
    mean, std = data.image_statistics(images)
    result = np.asarray(data.standardize(images, mean=mean, std=std), np.float64)
    # Mean and deviation are float32: relative 6e-8, times a mean over deviation below 1.
    assert abs(result.mean()) < 1e-6
    assert abs(result.std() - 1) < 1e-6


def test_standardize_under_jit_and_per_channel():
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3)).astype(np.uint8)
    mean, std = np.array([0.1, 0.5, 0.9], np.float32), np.array([0.5, 0.25, 2.0], np.float32)
    expected = (images.astype(np.float64) / 255 - mean) / std
    eager = data.standardize(images, mean=mean, std=std)
    jitted = jax.jit(lambda x, m, s: data.standardize(x, mean=m, std=s))(images, mean, std)
    assert eager.dtype == jnp.float32
    # One multiplication and one subtraction of values up to 4.
    np.testing.assert_allclose(eager, expected, atol=2e-6)
    np.testing.assert_allclose(jitted, expected, atol=2e-6)
    np.testing.assert_array_equal(data.standardize(images[0], mean=mean, std=std), eager[0])


def test_standardize_refuses_floats_and_other_statistics():
    with pytest.raises(ValueError, match="images is float32, expected uint8"):
        data.standardize(jnp.zeros((1, 2, 2, 1)), mean=[0.0], std=[1.0])
    with pytest.raises(ValueError, match=r"std has the shape \[1\], expected .* 3 channels"):
        data.standardize(np.zeros((1, 2, 2, 3), np.uint8), mean=[0.0] * 3, std=[1.0])


def test_loading_twice_gives_arrays_of_its_own():
    first, second = data.load_images("digits"), data.load_images("digits")
    first.train["image"][:] = 0
    assert second.train["image"].any()
