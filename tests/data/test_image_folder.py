"""Folders of image files."""

import json

import numpy as np
import pytest
from PIL import Image

from trove_jax import data
from trove_jax.core import DataUnavailable


def picture(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture
def root(tmp_path):
    """Two classes; the shorter sides are 16 already, so that nothing is resized."""
    sizes = {"n02/b.png": (16, 16), "n02/a.JPEG": (20, 16), "n01/c.png": (16, 25)}
    for split in ("train", "val"):
        for i, (name, size) in enumerate(sizes.items()):
            path = tmp_path / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(*size, seed=i)).save(path, quality=95)
        (tmp_path / split / "n01" / "notes.txt").write_text("not an image")
    return tmp_path


def test_reads_in_sorted_order_with_labels_by_class(root):
    folder = data.ImageFolder(root, "train", size=16)
    assert len(folder) == 3
    assert folder.class_names == ("n01", "n02")
    batch = folder[np.array([2, 0, 2])]
    assert batch["image"].shape == (3, 16, 16, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    assert batch["label"].tolist() == [1, 0, 1]
    np.testing.assert_array_equal(batch["image"][0], picture(16, 16, seed=0))
    np.testing.assert_array_equal(batch["image"][2], batch["image"][0])
    # 25 rows: torchvision starts at round(4.5) = 4.
    np.testing.assert_array_equal(batch["image"][1], picture(16, 25, seed=2)[4:20])


@pytest.mark.parametrize(("width", "height"), [(40, 30), (30, 40), (7, 7), (9, 100)])
def test_resizes_the_shorter_side_and_cuts_the_middle(tmp_path, width, height):
    (tmp_path / "train" / "c").mkdir(parents=True)
    original = Image.fromarray(picture(width, height))
    original.save(tmp_path / "train" / "c" / "a.png")
    image = data.ImageFolder(tmp_path, "train", size=12)[[0]]["image"][0]
    scale = 12 / min(width, height)
    resized = original.resize((int(width * scale), int(height * scale)), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 12) / 2), round((resized.height - 12) / 2)
    np.testing.assert_array_equal(image, np.asarray(resized)[top : top + 12, left : left + 12])


def test_grey_and_transparent_files_become_three_channels(tmp_path):
    (tmp_path / "train" / "c").mkdir(parents=True)
    grey = picture(8, 8)[..., 0]
    Image.fromarray(grey).save(tmp_path / "train" / "c" / "a.png")
    Image.fromarray(picture(8, 8)).convert("RGBA").save(tmp_path / "train" / "c" / "b.png")
    Image.fromarray(picture(8, 8)).convert("CMYK").save(tmp_path / "train" / "c" / "c.jpg")
    batch = data.ImageFolder(tmp_path, "train", size=8)[np.arange(3)]
    np.testing.assert_array_equal(batch["image"][0], np.repeat(grey[..., None], 3, axis=-1))
    np.testing.assert_array_equal(batch["image"][1], picture(8, 8))


def test_reading_is_a_function_of_the_indices(root):
    folder = data.ImageFolder(root, "val", size=8, threads=3)
    together = folder[np.arange(3)]["image"]
    np.testing.assert_array_equal(
        together, data.ImageFolder(root, "val", size=8)[range(3)]["image"]
    )
    for i in range(3):
        np.testing.assert_array_equal(folder[[i]]["image"][0], together[i])
    assert folder[np.zeros(0, int)]["image"].shape == (0, 8, 8, 3)


def test_a_broken_file_is_named(root):
    folder = data.ImageFolder(root, "train", size=8)
    whole = (root / "train" / "n02" / "a.JPEG").read_bytes()
    (root / "train" / "n02" / "a.JPEG").write_bytes(whole[: len(whole) // 2])
    assert folder[[0]]["label"].tolist() == [0]
    with pytest.raises(DataUnavailable, match=r"cannot decode .*n02/a\.JPEG"):
        folder[[0, 1]]
    (root / "train" / "n01" / "c.png").unlink()
    with pytest.raises(DataUnavailable, match=r"cannot decode .*n01/c\.png .*No such file"):
        folder[[0]]


def test_missing_folders_say_what_goes_where(root, tmp_path):
    with pytest.raises(DataUnavailable, match=r"is not a folder; put the images there as test/<cl"):
        data.ImageFolder(root, "test")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(DataUnavailable, match=r"holds no images; put them there as train/<class>"):
        data.ImageFolder(tmp_path / "empty", "train")
    (root / "val" / "n99").mkdir()
    with pytest.raises(DataUnavailable, match=r"n99 is a class that .*train lacks"):
        data.ImageFolder(root, "val")


def test_a_validation_folder_with_fewer_classes_keeps_the_labels(root):
    for path in (root / "val" / "n01").iterdir():
        path.unlink()
    (root / "val" / "n01").rmdir()
    assert data.ImageFolder(root, "val", size=8)[[0, 1]]["label"].tolist() == [1, 1]


def test_provenance_is_plain_and_sees_a_changed_file(root):
    first = data.ImageFolder(root, "train").provenance
    assert json.loads(json.dumps(first)) == first
    assert first["split"] == {"train": 3}
    assert data.ImageFolder(root, "train").provenance == first
    with open(root / "train" / "n01" / "c.png", "ab") as file:
        file.write(b"x")
    assert data.ImageFolder(root, "train").provenance["sha256"] != first["sha256"]


@pytest.mark.parametrize("indices", [0, [[0]], [0.5]])
def test_refuses_other_indices(root, indices):
    with pytest.raises(ValueError, match="expected integers"):
        data.ImageFolder(root, "train")[indices]


def test_refuses_other_sizes(root):
    with pytest.raises(ValueError, match="size=0 is not positive"):
        data.ImageFolder(root, "train", size=0)
