"""The .npz files: strict reading, whole writing."""

import os
import pickle
import zipfile

import numpy as np
import pytest

from trove_jax.core import DataUnavailable
from trove_jax.data.npz import check_npz, read_npz, write_npz

ARRAYS = {
    "x": np.random.default_rng(0).integers(0, 256, (40, 5, 5)).astype(np.uint8),
    "y": np.arange(40, dtype=np.uint8),
}
SHAPES = {"x": (40, 5, 5), "y": (40,)}


def test_round_trip_ignores_other_members(tmp_path):
    write_npz(tmp_path / "new" / "a.npz", {**ARRAYS, "class_names": np.array(["cat", "dog"])})
    read = read_npz(tmp_path / "new" / "a.npz", shapes=SHAPES)
    assert sorted(read) == ["x", "y"]
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(read[name], array)
    assert os.listdir(tmp_path / "new") == ["a.npz"]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_LZMA])
def test_reads_other_compressions(tmp_path, compression):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", compression) as archive:
        for name, array in ARRAYS.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    np.testing.assert_array_equal(read_npz(tmp_path / "a.npz", shapes=SHAPES)["x"], ARRAYS["x"])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_a_cut_file_is_named_with_the_cure(tmp_path, share):
    write_npz(tmp_path / "a.npz", ARRAYS)
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataUnavailable, match=r"a\.npz: it is damaged .*; replace the file"):
        check_npz(tmp_path / "a.npz", shapes=SHAPES)


def test_a_flipped_bit_never_changes_a_value_unnoticed(tmp_path):
    write_npz(tmp_path / "a.npz", ARRAYS)
    whole = (tmp_path / "a.npz").read_bytes()
    found = 0
    places = range(0, len(whole), 31)
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 0x10
        (tmp_path / "a.npz").write_bytes(changed)
        try:
            read = read_npz(tmp_path / "a.npz", shapes=SHAPES)
        except DataUnavailable:
            found += 1
            continue
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(read[name], array)
    # Dates and attributes in the zip directory may change without harm; most bytes are values.
    assert found > 0.6 * len(places)


class MakesFile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_an_object_array_is_refused_without_loading_it(tmp_path):
    evil = np.array([MakesFile(tmp_path / "mark")], dtype=object)
    np.savez(tmp_path / "a.npz", allow_pickle=True, x=evil, y=ARRAYS["y"])
    with pytest.raises(DataUnavailable, match="'x' holds Python objects"):
        read_npz(tmp_path / "a.npz", shapes=SHAPES)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": ARRAYS["x"]}, "lacks the array 'y'"),
        ({**ARRAYS, "y": ARRAYS["y"][:39]}, r"'y' is uint8 \[39\], expected uint8 \[40\]"),
        ({**ARRAYS, "y": ARRAYS["y"].astype(np.int64)}, r"'y' is int64 \[40\], expected uint8"),
    ],
)
def test_other_arrays_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataUnavailable, match=message):
        read_npz(tmp_path / "a.npz", shapes=SHAPES)


def test_what_is_no_npz_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    with open(path, "wb") as file:
        np.save(file, ARRAYS["x"])
    with pytest.raises(DataUnavailable, match="not a zip file"):
        read_npz(path, shapes=SHAPES)
    path.write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(DataUnavailable, match="not a zip file"):
        read_npz(path, shapes=SHAPES)
    with pytest.raises(DataUnavailable, match="No such file"):
        read_npz(tmp_path / "none.npz", shapes=SHAPES)


def test_a_header_that_claims_a_huge_shape_is_refused_before_reading(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("x.npy", "w") as member:
        header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 60,)}
        np.lib.format.write_array_header_1_0(member, header)
    with pytest.raises(DataUnavailable, match=r"expected uint8 \[40, 5, 5\]"):
        check_npz(tmp_path / "a.npz", shapes={"x": (40, 5, 5)})


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    write_npz(tmp_path / "a.npz", ARRAYS)
    before = (tmp_path / "a.npz").read_bytes()
    with pytest.raises(ValueError, match="Object arrays"):
        write_npz(tmp_path / "a.npz", {"x": np.array([None], dtype=object)})
    assert (tmp_path / "a.npz").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.npz"]
    with pytest.raises(DataUnavailable, match="could not write"):
        write_npz(tmp_path / "a.npz" / "b.npz", ARRAYS)
