"""Where sets are found, what is read from there, and what identifies the contents."""

import dataclasses
import hashlib

import numpy as np
import pytest

from trove_jax.core import DataUnavailable
from trove_jax.data import source
from trove_jax.data.catalogue import describe
from trove_jax.data.npz import write_npz


@pytest.fixture
def small(samples):
    arrays = samples.arrays()
    return samples.mnist(arrays), arrays


def test_places_are_searched_in_order(cache, tmp_path, monkeypatch, small):
    data_set, arrays = small
    assert source.find(data_set) is None
    write_npz(cache / "mnist.npz", arrays)
    assert source.find(data_set).kind == "cache"
    (tmp_path / "env").mkdir()
    monkeypatch.setenv("TROVE_DATA_DIR", str(tmp_path / "env"))
    assert source.find(data_set).kind == "cache"
    write_npz(tmp_path / "env" / "mnist.npz", arrays)
    found = source.find(data_set)
    assert (found.kind, found.path) == ("data_dir", tmp_path / "env" / "mnist.npz")
    (tmp_path / "flag").mkdir()
    assert source.find(data_set, data_dir=tmp_path / "flag").kind == "cache"
    write_npz(tmp_path / "flag" / "mnist.npz", arrays)
    assert source.find(data_set, data_dir=tmp_path / "flag").path.parent.name == "flag"


def test_a_bundled_set_comes_first(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("TROVE_DATA_DIR", str(tmp_path))
    (tmp_path / "digits.npz").write_bytes(b"not looked at")
    found = source.find(describe("digits"))
    assert found.kind == "bundled"
    assert found.description.startswith("scikit-learn ")


def test_a_bundled_set_whose_package_is_missing_says_what_to_install(cache):
    digits = describe("digits")
    absent = dataclasses.replace(digits.bundled, distribution="absent-pkg", package="absent_pkg")
    with pytest.raises(DataUnavailable, match="digits is not here: pip install absent-pkg"):
        source.load_arrays(dataclasses.replace(digits, bundled=absent))


def test_cache_is_under_the_home_folder_without_xdg(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert source.cache_dir() == tmp_path / ".cache" / "trove_jax"


@pytest.mark.parametrize("named_by", ["data_dir", "TROVE_DATA_DIR"])
def test_a_named_folder_that_is_missing_is_an_error(cache, tmp_path, monkeypatch, small, named_by):
    missing = str(tmp_path / "missing")
    if named_by == "TROVE_DATA_DIR":
        monkeypatch.setenv("TROVE_DATA_DIR", missing)
    with pytest.raises(DataUnavailable, match=rf"{named_by}=.*missing is not a folder"):
        source.find(small[0], data_dir=missing if named_by == "data_dir" else None)


def test_loading_never_downloads(cache, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("opened a connection")

    monkeypatch.setattr("socket.socket.connect", refuse)
    with pytest.raises(DataUnavailable, match=r"launch\.data --prepare=cifar10`"):
        source.load_arrays(describe("cifar10"))
    with pytest.raises(DataUnavailable, match=r"put cifar10_20k\.npz under"):
        source.load_arrays(describe("cifar10_20k"))


def test_a_damaged_file_is_an_error_and_not_skipped(cache, tmp_path, small):
    data_set, arrays = small
    write_npz(cache / "mnist.npz", arrays)
    (tmp_path / "mnist.npz").write_bytes(b"PK damaged")
    with pytest.raises(DataUnavailable, match=f"cannot use {tmp_path}/mnist.npz"):
        source.load_arrays(data_set, data_dir=tmp_path)


def test_another_set_of_the_same_shape_is_refused(cache, samples, small):
    data_set, arrays = small
    skewed = {**arrays, "y_train": np.roll(arrays["y_train"], 1) // 2}
    write_npz(cache / "mnist.npz", skewed)
    with pytest.raises(DataUnavailable, match="is not mnist: its classes have"):
        source.load_arrays(data_set)


def test_a_label_out_of_range_is_refused(cache, small):
    data_set, arrays = small
    write_npz(cache / "mnist.npz", {**arrays, "y_test": arrays["y_test"] + np.uint8(1)})
    with pytest.raises(DataUnavailable, match="y_test holds the label 10, expected 0 to 9"):
        source.load_arrays(data_set)


def test_a_damaged_package_file_says_to_reinstall(cache, tmp_path, monkeypatch):
    package = tmp_path / "broken_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "digits.csv").write_text("1,2,three\n")
    monkeypatch.syspath_prepend(tmp_path)
    digits = describe("digits")
    broken = dataclasses.replace(digits.bundled, package="broken_pkg", path="digits.csv")
    with pytest.raises(DataUnavailable, match=r"digits\.csv .*; reinstall scikit-learn"):
        source.load_arrays(dataclasses.replace(digits, bundled=broken))


def test_the_digest_is_of_values_not_of_memory_or_files(small):
    arrays = small[1]
    digest = source.contents_sha256(arrays)
    reordered = {name: np.asfortranarray(arrays[name]) for name in reversed(arrays)}
    assert source.contents_sha256(reordered) == digest
    expected = hashlib.sha256()
    for name in ("x_test", "x_train", "y_test", "y_train"):
        shape = list(arrays[name].shape)
        expected.update(f"{name} |u1 {shape}\n".encode() + arrays[name].tobytes())
    assert digest == expected.hexdigest()


@pytest.mark.parametrize("change", ["value", "shape", "dtype", "name"])
def test_the_digest_sees_every_change(small, change):
    arrays = dict(small[1])
    digest = source.contents_sha256(arrays)
    if change == "value":
        arrays["x_test"] = arrays["x_test"] ^ (np.arange(arrays["x_test"].size) == 7).reshape(
            arrays["x_test"].shape
        ).astype(np.uint8)
    elif change == "shape":
        arrays["x_test"] = arrays["x_test"].reshape(10, 784)
    elif change == "dtype":
        arrays["y_test"] = arrays["y_test"].astype(np.int8)
    else:
        arrays["y_val"] = arrays.pop("y_test")
    assert source.contents_sha256(arrays) != digest
