"""From published files, or a user's own, to one .npz: over a socket and from disk."""

import dataclasses
import gzip
import io
import os
import tarfile

import numpy as np
import pytest
from scipy import io as scipy_io

from trove_jax.core import DataUnavailable
from trove_jax.data import formats, images
from trove_jax.data.catalogue import describe
from trove_jax.data.npz import read_npz, write_npz
from trove_jax.data.preparation import prepare
from trove_jax.data.source import contents_sha256, load_arrays


@pytest.fixture
def arrays(samples):
    return samples.arrays()


@pytest.fixture
def published(server, samples, arrays):
    """A small MNIST on the server, in four .gz files."""
    downloads = []
    for name, contents in samples.idx_files(arrays).items():
        body = gzip.compress(contents)
        server.files[f"/{name}.gz"] = samples.served(body)
        downloads.append(samples.remote(server.url, f"{name}.gz", body))
    return dataclasses.replace(samples.mnist(arrays), downloads=tuple(downloads))


def test_downloads_converts_and_cleans_up(cache, server, published, arrays):
    done = prepare(published)
    assert done.path == cache / "mnist.npz"
    assert done.action == "downloaded and converted"
    assert done.sha256 == contents_sha256(arrays)
    found, location = load_arrays(published)
    assert location.kind == "cache"
    np.testing.assert_array_equal(found["x_train"], arrays["x_train"])
    left = [path.name for path in cache.rglob("*") if path.is_file()]
    assert left == ["mnist.npz"]


def test_preparing_again_does_nothing(cache, server, published):
    first = prepare(published)
    stamp = first.path.stat().st_mtime_ns
    asked = len(server.requests)
    again = prepare(published)
    assert again.action == "already here and intact"
    assert (again.path, again.sha256) == (first.path, first.sha256)
    assert len(server.requests) == asked
    assert first.path.stat().st_mtime_ns == stamp


def test_a_damaged_file_in_the_cache_is_set_aside_and_fetched_again(cache, published):
    prepare(published)
    whole = (cache / "mnist.npz").read_bytes()
    (cache / "mnist.npz").write_bytes(whole[:-40])
    assert prepare(published).action == "downloaded and converted"
    assert (cache / "mnist.npz.damaged").read_bytes() == whole[:-40]
    load_arrays(published)


def test_a_cut_transfer_is_resumed_by_the_same_call(cache, server, published):
    served = server.files["/train-images-idx3-ubyte.gz"]
    served.cut_at = 500
    with pytest.raises(DataUnavailable, match=r"500 bytes are kept in .*same command resumes"):
        prepare(published)
    served.cut_at = None
    assert prepare(published).action == "downloaded and converted"
    assert ("/train-images-idx3-ubyte.gz", "bytes=500-") in server.requests


def test_a_wrong_file_is_never_converted(cache, server, published, samples):
    good = server.files["/t10k-labels-idx1-ubyte.gz"].body
    wrong = bytes([good[0] ^ 1]) + good[1:]
    server.files["/t10k-labels-idx1-ubyte.gz"] = samples.served(wrong)
    with pytest.raises(DataUnavailable, match=r"t10k-labels.*wrong SHA-256"):
        prepare(published)
    assert not (cache / "mnist.npz").exists()


def test_a_mirror_serves_in_place_of_the_published_addresses(cache, server, published):
    elsewhere = tuple(
        dataclasses.replace(file, urls=(f"http://127.0.0.1:1/{file.name}",))
        for file in published.downloads
    )
    data_set = dataclasses.replace(published, downloads=elsewhere)
    with pytest.raises(DataUnavailable, match=r"127\.0\.0\.1:1/"):
        prepare(data_set)
    assert prepare(data_set, mirror=server.url + "/").action == "downloaded and converted"


def test_goes_where_data_dir_says_and_makes_it(cache, published, tmp_path):
    done = prepare(published, data_dir=tmp_path / "new" / "folder")
    assert done.path == tmp_path / "new" / "folder" / "mnist.npz"
    assert not (cache / "mnist.npz").exists()
    load_arrays(published, data_dir=tmp_path / "new" / "folder")


def test_what_the_cache_has_is_copied_not_fetched(cache, server, published, tmp_path):
    first = prepare(published)
    asked = len(server.requests)
    done = prepare(published, data_dir=tmp_path / "mine")
    assert done.action.startswith("copied from")
    assert done.sha256 == first.sha256
    assert (tmp_path / "mine" / "mnist.npz").exists()
    assert len(server.requests) == asked


def test_the_same_data_from_different_sources_has_one_digest(
    cache, published, samples, arrays, tmp_path, monkeypatch
):
    folder = tmp_path / "own" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, contents in samples.idx_files(arrays).items():
        (folder / name.replace("-idx", ".idx")).write_bytes(contents)
    write_npz(tmp_path / "given.npz", {**arrays, "extra": np.zeros(3)})
    results = [
        prepare(published, data_dir=tmp_path / "a"),
        prepare(published, data_dir=tmp_path / "b", origin=tmp_path / "own"),
        prepare(published, data_dir=tmp_path / "c", origin=tmp_path / "given.npz"),
    ]
    assert len({done.sha256 for done in results}) == 1
    monkeypatch.setattr(images, "describe", lambda name: published)
    loaded = [images.load_images("mnist", data_dir=done.path.parent) for done in results]
    assert {data.provenance["sha256"] for data in loaded} == {results[0].sha256}


def test_own_files_of_another_set_are_refused(cache, published, samples, arrays, tmp_path):
    other = {**arrays, "y_train": np.zeros_like(arrays["y_train"])}
    for name, contents in samples.idx_files(other).items():
        (tmp_path / name).write_bytes(contents)
    with pytest.raises(DataUnavailable, match="is not mnist: its classes have"):
        prepare(published, origin=tmp_path)
    assert not cache.exists()


def test_other_contents_are_never_overwritten(cache, published, samples, tmp_path):
    done = prepare(published)
    other = samples.arrays(seed=1)
    write_npz(tmp_path / "other.npz", other)
    with pytest.raises(DataUnavailable, match="is there with other contents"):
        prepare(published, origin=tmp_path / "other.npz")
    assert contents_sha256(read_npz(done.path, shapes=published.shapes)) == done.sha256


def cifar_archive(samples, *, extra=()):
    """A small cifar-10-python.tar.gz, and the arrays in it."""
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    batches = []
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in formats.CIFAR10_FILES:
            batch = rng.integers(0, 256, (10, 32, 32, 3)).astype(np.uint8)
            labels = rng.permutation(10).astype(np.uint8)
            batches.append((batch, labels))
            body = samples.cifar_batch(batch, labels)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
        for member in extra:
            archive.addfile(member)
    shapes = {"x_train": (50, 32, 32, 3), "y_train": (50,), "x_test": (10, 32, 32, 3)}
    data_set = dataclasses.replace(
        describe("cifar10"), shapes={**shapes, "y_test": (10,)}, class_counts=(5,) * 10
    )
    return buffer.getvalue(), data_set, batches


@pytest.mark.parametrize("form", ["download", "archive", "folder of the archive", "unpacked"])
def test_cifar10_from_every_form(cache, server, samples, tmp_path, form):
    body, data_set, batches = cifar_archive(samples)
    file = samples.remote(server.url, "cifar-10-python.tar.gz", body)
    data_set = dataclasses.replace(data_set, downloads=(file,))
    server.files["/cifar-10-python.tar.gz"] = samples.served(body)
    origin = None
    if form != "download":
        (tmp_path / "own").mkdir()
        archive = tmp_path / "own" / "cifar-10-python.tar.gz"
        archive.write_bytes(body)
        origin = archive if form == "archive" else archive.parent
        if form == "unpacked":
            with tarfile.open(archive) as opened:
                opened.extractall(tmp_path / "own", filter="data")
            archive.unlink()
    prepare(data_set, origin=origin)
    arrays, _ = load_arrays(data_set)
    np.testing.assert_array_equal(arrays["x_train"], np.concatenate([x for x, _ in batches[:5]]))
    np.testing.assert_array_equal(arrays["y_test"], batches[5][1])
    assert bool(server.requests) == (form == "download")


def test_cifar100_and_svhn_are_downloaded_and_converted(cache, server, samples):
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (200, 32, 32, 3)).astype(np.uint8)
    classes = rng.permutation(np.arange(200) % 100).astype(np.uint8)
    records = np.concatenate(
        [0 * classes[:, None], classes[:, None], images.transpose(0, 3, 1, 2).reshape(200, -1)], 1
    )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, count in (("train", 200), ("test", 100)):
            member = tarfile.TarInfo(f"cifar-100-binary/{name}.bin")
            body = records[:count].tobytes()
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    bodies = {"cifar-100-binary.tar.gz": buffer.getvalue()}
    for part, count in (("train", 200), ("test", 100)):
        buffer = io.BytesIO()
        digits = (np.arange(count) % 10 + 1)[:, None]
        scipy_io.savemat(buffer, {"X": images[:count].transpose(1, 2, 3, 0), "y": digits})
        bodies[f"{part}_32x32.mat"] = buffer.getvalue()
    for name, counts in (("cifar100", (2,) * 100), ("svhn", (20,) * 10)):
        published = describe(name)
        data_set = dataclasses.replace(
            published,
            shapes={
                key: (200 if key.endswith("train") else 100, *shape[1:])
                for key, shape in published.shapes.items()
            },
            class_counts=counts,
            downloads=tuple(
                samples.remote(server.url, file.name, bodies[file.name])
                for file in published.downloads
            ),
        )
        for file in published.downloads:
            server.files[f"/{file.name}"] = samples.served(bodies[file.name])
        assert prepare(data_set).action == "downloaded and converted"
        arrays, _ = load_arrays(data_set)
        np.testing.assert_array_equal(arrays["x_train"], images)
        np.testing.assert_array_equal(arrays["x_test"], images[:100])
        want = classes if name == "cifar100" else (np.arange(200) % 10 + 1) % 10
        np.testing.assert_array_equal(arrays["y_train"], want)


@pytest.mark.parametrize("kind", ["climbs out", "link"])
def test_a_hostile_archive_is_refused_although_its_digest_is_right(
    cache, server, samples, tmp_path, kind
):
    member = tarfile.TarInfo("../../../escaped" if kind == "climbs out" else "link")
    if kind == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    body, data_set, _ = cifar_archive(samples, extra=[member])
    file = samples.remote(server.url, "cifar-10-python.tar.gz", body)
    server.files["/cifar-10-python.tar.gz"] = samples.served(body)
    with pytest.raises(DataUnavailable, match="is refused: its member"):
        prepare(dataclasses.replace(data_set, downloads=(file,)))
    assert not list(tmp_path.rglob("escaped"))
    assert not (cache / "cifar10.npz").exists()


def test_sets_that_need_no_preparation_or_allow_none(cache, tmp_path):
    assert prepare(describe("digits")).action.startswith("comes with scikit-learn")
    with pytest.raises(DataUnavailable, match="cifar10_20k cannot be fetched: put cifar10_20k"):
        prepare(describe("cifar10_20k"))
    with pytest.raises(DataUnavailable, match="imagenet is used as it is: get ILSVRC2012"):
        prepare(describe("imagenet"))
    with pytest.raises(DataUnavailable, match=r"--from takes cifar10_20k\.npz"):
        prepare(describe("cifar10_20k"), origin=tmp_path)
    with pytest.raises(DataUnavailable, match="nowhere does not exist"):
        prepare(describe("mnist"), origin=tmp_path / "nowhere")


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of posix")
def test_a_folder_that_cannot_be_written_is_one_line(cache, samples, arrays, tmp_path):
    write_npz(tmp_path / "given.npz", arrays)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataUnavailable, match="cannot make the folder"):
        prepare(
            samples.mnist(arrays), origin=tmp_path / "given.npz", data_dir=tmp_path / "file" / "d"
        )
