"""Images of other sets: fitted to a shape, and read from arrays and folders."""

import numpy as np
import pytest
from PIL import Image

from trove_jax import data
from trove_jax.core import DataUnavailable
from trove_jax.data import load_other_images, match_images


def pictures(n=3, side=28, channels=3, seed=0):
    """Smooth and rough parts, black and white included."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (n, side, side, channels)).astype(np.uint8)
    image[:, : side // 2] = np.linspace(0, 255, side)[:, None].astype(np.uint8)
    return image


@pytest.mark.parametrize("size", [(32, 32), (16, 16), (28, 9), (7, 50)])
def test_resizing_is_that_of_pillow(size):
    images = pictures()
    got = match_images(images, shape=(*size, 3))
    for mine, image in zip(got, images, strict=True):
        theirs = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
        # Pillow computes with 8-bit weights and rounds after each axis.
        assert np.abs(mine.astype(int) - np.asarray(theirs, int)).max() <= 1


def test_grey_and_colour():
    images = pictures()
    grey = match_images(images, shape=(28, 28, 1))
    for mine, image in zip(grey, images, strict=True):
        theirs = np.asarray(Image.fromarray(image).convert("L"), int)
        assert np.abs(mine[..., 0].astype(int) - theirs).max() <= 1
    colour = match_images(grey, shape=(28, 28, 3))
    for channel in range(3):
        np.testing.assert_array_equal(colour[..., channel], grey[..., 0])
    assert match_images(images, shape=(28, 28, 3)) is images


def test_padding_is_black_and_keeps_every_pixel():
    images = pictures(channels=1)
    padded = match_images(images, shape=(33, 32, 1), fit="pad")
    np.testing.assert_array_equal(padded[:, 2:30, 2:30], images)
    assert padded.astype(int).sum() == images.astype(int).sum()
    assert len(match_images(images[:0], shape=(32, 32, 3))) == 0


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((1, 4, 4, 1)), {"shape": (4, 4, 1)}, "images is float64"),
        (np.zeros((4, 4, 1), np.uint8), {"shape": (4, 4, 1)}, r"images is uint8 \[4, 4, 1\]"),
        (np.zeros((1, 4, 4, 2), np.uint8), {"shape": (4, 4, 1)}, r"\[1, 4, 4, 2\]"),
        (np.zeros((1, 4, 4, 1), np.uint8), {"shape": (4, 4, 2)}, r"shape=\(4, 4, 2\) is not"),
        (np.zeros((1, 4, 4, 1), np.uint8), {"shape": (0, 4, 1)}, r"shape=\(0, 4, 1\) is not"),
        (np.zeros((1, 4, 4, 1), np.uint8), {"shape": (3, 4, 1), "fit": "pad"}, "do not fit into"),
        (np.zeros((1, 4, 4, 1), np.uint8), {"shape": (4, 4, 1), "fit": "cut"}, "fit='cut' is unk"),
    ],
)
def test_what_cannot_be_fitted_is_refused(images, options, message):
    with pytest.raises(ValueError, match=message):
        match_images(images, **options)


def test_a_set_of_arrays_is_spread_over_its_test_images():
    whole = data.load_images("digits").test["image"]
    images, provenance = load_other_images("digits", shape=(8, 8, 1), count=90)
    np.testing.assert_array_equal(images, whole[::4])
    assert provenance["name"] == "digits"
    assert provenance["split"] == {"test": 90}
    images, _ = load_other_images("digits", shape=(12, 12, 3), fit="pad", count=10**6)
    np.testing.assert_array_equal(images[:, 2:10, 2:10, 1], whole[..., 0])


@pytest.fixture
def folder(tmp_path):
    """Textures as they are published: three classes of four images."""
    for c in range(3):
        place = tmp_path / "textures" / "images" / f"class{c}"
        place.mkdir(parents=True)
        for i in range(4):
            colour = np.full((20, 30, 3), 60 * c + i, np.uint8)
            Image.fromarray(colour).save(place / f"{i}.jpg", quality=100)
    return tmp_path


def test_a_folder_keeps_its_classes_when_only_some_are_taken(folder):
    images, provenance = load_other_images("textures", shape=(16, 16, 3), count=6, data_dir=folder)
    assert images.shape == (6, 16, 16, 3)
    assert images.dtype == np.uint8
    assert (images[:, 8, 8, 0] // 60).tolist() == [0, 0, 1, 1, 2, 2]
    assert provenance["name"] == "textures"
    assert provenance["split"] == {"images": 6}
    assert provenance["licence"] == "research purposes only"
    grey, _ = load_other_images("textures", shape=(8, 8, 1), data_dir=folder)
    assert grey.shape == (12, 8, 8, 1)


def test_what_is_not_here_is_said_in_one_line(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    with pytest.raises(DataUnavailable, match=r"places365 is not here: get val_256\.tar") as e:
        load_other_images("places365", shape=(32, 32, 3), data_dir=folder)
    assert "places365/val/val_256" in str(e.value)
    (folder / "places365").mkdir()
    with pytest.raises(DataUnavailable, match=r"val is not a folder.*get val_256\.tar"):
        load_other_images("places365", shape=(32, 32, 3), data_dir=folder)
    with pytest.raises(DataUnavailable, match=r"svhn is not here: run .*--prepare=svhn"):
        load_other_images("svhn", shape=(32, 32, 3), data_dir=folder)


def test_bad_requests_are_refused(folder):
    with pytest.raises(ValueError, match="count=0"):
        load_other_images("digits", shape=(8, 8, 1), count=0)
    with pytest.raises(ValueError, match="can only be made square"):
        load_other_images("textures", shape=(8, 9, 3), data_dir=folder)
    with pytest.raises(ValueError, match="did you mean 'textures'"):
        load_other_images("texture", shape=(8, 8, 3))
    for read in (data.load_inputs, data.input_shape, data.standard_augmentation):
        with pytest.raises(ValueError, match="only tested on"):
            read("textures")
