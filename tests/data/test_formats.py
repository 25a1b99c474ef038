"""IDX and CIFAR files: round trips, damage, and pickles that try to do something."""

import datetime
import io
import os
import pickle
import warnings

import numpy as np
import pytest
from scipy import io as scipy_io

from trove_jax.core import DataUnavailable
from trove_jax.data.formats import (
    CIFAR10_FILES,
    convert_cifar10,
    convert_cifar100,
    convert_idx,
    convert_svhn,
    read_cifar100,
    read_cifar_batch,
    read_idx,
    read_svhn,
)


@pytest.mark.parametrize("shape", [(0,), (7,), (3, 28, 28), (2, 3, 4, 5)])
def test_idx_round_trip(samples, shape):
    array = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    read = read_idx(samples.idx_bytes(array), name="file")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-1], r"states the shape \[2, 3\] but holds 5 values"),
        (lambda b: b + b"x", r"states the shape \[2, 3\] but holds 7 values"),
        (lambda b: b[:9], "cut: its header needs 12 bytes"),
        (lambda b: b"", "not an IDX file"),
        (lambda b: b"\x1f\x8b" + b[2:], "not an IDX file"),
        (lambda b: b[:2] + b"\x0d" + b[3:], "type 0x0d, expected unsigned bytes"),
    ],
)
def test_idx_damage_names_the_file(samples, change, message):
    contents = samples.idx_bytes(np.arange(6, dtype=np.uint8).reshape(2, 3))
    with pytest.raises(DataUnavailable, match=f"^labels .*{message}"):
        read_idx(change(contents), name="labels")


def test_the_four_idx_files_become_a_set(samples):
    arrays = samples.arrays()
    converted = convert_idx(samples.idx_files(arrays))
    assert list(converted) == ["x_train", "y_train", "x_test", "y_test"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(converted[name], array)


def cifar(seed, n):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8)
    return images, rng.integers(0, 10, n).astype(np.uint8)


def test_the_sample_batch_is_what_python_itself_reads(samples):
    images, labels = cifar(0, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        batch = pickle.loads(samples.cifar_batch(images, labels), encoding="bytes")
    assert batch[b"labels"] == labels.tolist()
    np.testing.assert_array_equal(
        batch[b"data"].reshape(4, 3, 32, 32), images.transpose(0, 3, 1, 2)
    )


def test_cifar_batch_as_published(samples):
    images, labels = cifar(0, 4)
    read_images, read_labels = read_cifar_batch(samples.cifar_batch(images, labels), name="b")
    np.testing.assert_array_equal(read_images, images)
    np.testing.assert_array_equal(read_labels, labels)
    assert read_images.dtype == read_labels.dtype == np.uint8


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_cifar_batch_pickled_anew(protocol, order):
    images, labels = cifar(1, 3)
    flat = np.asarray(images.transpose(0, 3, 1, 2).reshape(3, -1), order=order)
    batch = {b"data": flat, "labels": labels.tolist(), "batch_label": b"x"}
    contents = pickle.dumps(batch, protocol=protocol)
    np.testing.assert_array_equal(read_cifar_batch(contents, name="b")[0], images)


def test_the_six_batches_become_a_set_in_order(samples):
    batches = {name: cifar(i, 2 + i) for i, name in enumerate(CIFAR10_FILES)}
    files = {name: samples.cifar_batch(*batch) for name, batch in batches.items()}
    converted = convert_cifar10(files)
    train = [batches[f"data_batch_{i}"] for i in (1, 2, 3, 4, 5)]
    np.testing.assert_array_equal(converted["x_train"], np.concatenate([x for x, _ in train]))
    np.testing.assert_array_equal(converted["y_train"], np.concatenate([y for _, y in train]))
    np.testing.assert_array_equal(converted["x_test"], batches["test_batch"][0])
    np.testing.assert_array_equal(converted["y_test"], batches["test_batch"][1])


class Calls:
    """Pickles as a call of any function: the usual attack."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def test_a_pickle_that_would_make_a_file_is_refused_without_making_it(tmp_path):
    mark = tmp_path / "mark"
    attacks = [
        Calls(os.system, f"touch {mark}"),
        Calls(eval, f"open({str(mark)!r}, 'w').close()"),
        Calls(open, str(mark), "w"),
        Calls(os.mkdir, str(mark)),
    ]
    for attack in attacks:
        for batch in (attack, {b"data": attack, b"labels": []}, {b"labels": [attack]}):
            contents = pickle.dumps(batch, protocol=2)
            with pytest.raises(DataUnavailable, match=r"data_batch_1 is refused: .*asks for"):
                read_cifar_batch(contents, name="data_batch_1")
    assert not mark.exists()
    pickle.loads(pickle.dumps(attacks[2], protocol=2)).close()
    assert mark.exists(), "the attack must be a real one"


@pytest.mark.parametrize(
    "value",
    [
        np.array([print, None], dtype=object),
        np.zeros((2, 3072), np.float32),
        np.zeros(2, [("a", "u1")]),
        np.float64(1.0),
        datetime.date(2009, 4, 8),
        {1, 2},
    ],
    ids=["objects", "float32", "record", "scalar", "date", "set"],
)
def test_a_pickle_with_anything_but_plain_uint8_arrays_is_refused(value):
    contents = pickle.dumps({b"data": value, b"labels": [0, 1]}, protocol=2)
    with pytest.raises(DataUnavailable, match=r"refused|no CIFAR batch|holds no uint8 array"):
        read_cifar_batch(contents, name="b")


@pytest.mark.parametrize(
    "contents",
    [
        b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R.",
        b"\x80\x02cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R.",
        b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R}X\x01\x00\x00\x00aK\x01sb.",
        b"\x80\x02c_codecs\nencode\n}X\x08\x00\x00\x00__call__K\x01sb.",
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\n\x85R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x02Pfile\n.",
        b"\x82\x01.",
        b"cposix\nsystem\n.",
        b"",
        b"\x80\x02}.extra",
        b"\x80\x02](.",
    ],
)
def test_crafted_opcodes_end_in_one_line(contents):
    with pytest.raises(DataUnavailable) as caught:
        read_cifar_batch(contents, name="data_batch_3")
    assert str(caught.value).startswith("data_batch_3 ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_cifar_batch_is_named(samples, share):
    contents = samples.cifar_batch(*cifar(0, 4))
    with pytest.raises(DataUnavailable, match=r"^data_batch_2 is damaged"):
        read_cifar_batch(contents[: int(share * len(contents))], name="data_batch_2")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 2], "holds a list, expected a dictionary"),
        ({b"labels": [1]}, "holds no uint8 array 'data'"),
        ({b"data": np.zeros((1, 3071), np.uint8), b"labels": [1]}, "holds no uint8 array 'data'"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [1, 2]}, "holds no list 'labels'"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [256]}, "holds no list 'labels'"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": [1]}, "holds no list 'labels'"),
    ],
)
def test_other_contents_are_named(batch, message):
    with pytest.raises(DataUnavailable, match=message):
        read_cifar_batch(pickle.dumps(batch, protocol=2), name="b")


def cifar100_bytes(images, superclasses, classes):
    """Written record by record, as its author describes the file."""
    return b"".join(
        bytes([coarse, fine]) + b"".join(image[:, :, k].tobytes() for k in range(3))
        for image, coarse, fine in zip(images, superclasses, classes, strict=True)
    )


def test_the_binary_files_of_cifar100_become_a_set():
    images, _ = cifar(2, 5)
    classes = np.array([99, 0, 17, 50, 3], np.uint8)
    contents = cifar100_bytes(images, [19, 0, 4, 7, 1], classes)
    read_images, read_classes = read_cifar100(contents, name="train.bin")
    np.testing.assert_array_equal(read_images, images)
    np.testing.assert_array_equal(read_classes, classes)
    files = {"train.bin": contents, "test.bin": contents[: 2 * 3074]}
    converted = convert_cifar100(files)
    assert list(converted) == ["x_train", "y_train", "x_test", "y_test"]
    np.testing.assert_array_equal(converted["x_train"], images)
    np.testing.assert_array_equal(converted["y_test"], classes[:2])
    assert {array.dtype for array in converted.values()} == {np.dtype(np.uint8)}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "test.bin has 0 bytes, expected a multiple of 3074"),
        (bytes(3073), "test.bin has 3073 bytes"),
        (bytes([20]) + bytes(3073), "test.bin holds the superclass 20"),
        (bytes([0, 100]) + bytes(3072), "test.bin holds .* the class 100, expected at most"),
    ],
)
def test_other_binary_files_are_refused(contents, message):
    with pytest.raises(DataUnavailable, match=message):
        read_cifar100(contents, name="test.bin")


def svhn_bytes(images, digits, **changes):
    file = io.BytesIO()
    arrays = {"X": images.transpose(1, 2, 3, 0), "y": np.where(digits == 0, 10, digits)[:, None]}
    scipy_io.savemat(file, arrays | changes, do_compression=True)
    return file.getvalue()


def test_the_matlab_files_of_svhn_become_a_set():
    images, digits = cifar(3, 12)
    digits[0] = 0
    contents = svhn_bytes(images, digits)
    read_images, read_digits = read_svhn(contents, name="train_32x32.mat")
    np.testing.assert_array_equal(read_images, images)
    np.testing.assert_array_equal(read_digits, digits)
    other = svhn_bytes(images[:3], digits[:3])
    converted = convert_svhn({"train_32x32.mat": contents, "test_32x32.mat": other})
    assert list(converted) == ["x_train", "y_train", "x_test", "y_test"]
    np.testing.assert_array_equal(converted["x_test"], images[:3])
    assert {array.dtype for array in converted.values()} == {np.dtype(np.uint8)}


def test_other_matlab_files_are_refused():
    images, digits = cifar(4, 3)
    contents = svhn_bytes(images, digits)
    for damaged in (b"", b"no such file", contents[:400]):
        with pytest.raises(DataUnavailable, match=r"^test_32x32\.mat is damaged or no Matlab file"):
            read_svhn(damaged, name="test_32x32.mat")
    for changes, message in (
        ({"X": np.zeros((32, 32, 3, 3))}, r"holds X float64 \[32, 32, 3, 3\], expected uint8"),
        ({"X": np.zeros((3, 32, 32, 3), np.uint8)}, r"holds X uint8 \[3, 32, 32, 3\]"),
        ({"y": np.array([[1], [11], [2]])}, r"holds y \[3, 1\], expected \[3, 1\] with values"),
        ({"y": np.array([[1], [2]])}, r"holds y \[2, 1\]"),
    ):
        with pytest.raises(DataUnavailable, match=message):
            read_svhn(svhn_bytes(images, digits, **changes), name="test_32x32.mat")
