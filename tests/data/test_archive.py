"""Originals out of folders and archives, honest and hostile."""

import gzip
import io
import stat
import tarfile
import zipfile

import pytest

from trove_jax.core import DataUnavailable
from trove_jax.data.archive import plain_name, read_originals

FILES = {"one": b"first" * 100, "two-idx1-ubyte": b"second"}
WANTED = tuple(FILES)


def write_tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for member, body in members:
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return path


def regular():
    return [(tarfile.TarInfo(f"folder/{name}"), body) for name, body in FILES.items()]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("train-images-idx3-ubyte.gz", "train-images-idx3-ubyte"),
        ("raw/train-images.idx3-ubyte", "train-images-idx3-ubyte"),
        ("a\\b\\data_batch_1", "data_batch_1"),
    ],
)
def test_names_by_which_originals_are_known(name, plain):
    assert plain_name(name) == plain


def test_reads_a_folder_with_files_packed_or_not(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "one.gz").write_bytes(gzip.compress(FILES["one"]))
    (tmp_path / "two.idx1-ubyte").write_bytes(FILES["two-idx1-ubyte"])
    assert read_originals(tmp_path, WANTED) == FILES


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_reads_a_tar(tmp_path, mode):
    assert read_originals(write_tar(tmp_path / "a.tar", regular(), mode), WANTED) == FILES


def test_reads_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("folder")
        for name, body in FILES.items():
            archive.writestr(f"folder/{name}", body)
    assert read_originals(tmp_path / "a.zip", WANTED) == FILES


@pytest.mark.parametrize("name", ["../out", "folder/../../out", "/tmp/out", "..\\out", "C:\\out"])
def test_an_archive_with_a_path_that_climbs_out_is_refused(tmp_path, name):
    inside = tmp_path / "inside"
    inside.mkdir()
    climbing = [*regular(), (tarfile.TarInfo(name), b"evil")]
    with pytest.raises(DataUnavailable, match="points outside the archive"):
        read_originals(write_tar(inside / "a.tar.gz", climbing), WANTED)
    with zipfile.ZipFile(inside / "a.zip", "w") as archive:
        for file, body in FILES.items():
            archive.writestr(file, body)
        archive.writestr(name, b"evil")
    with pytest.raises(DataUnavailable, match="points outside the archive"):
        read_originals(inside / "a.zip", WANTED)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar.gz", "a.zip", "inside"]


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.FIFOTYPE, "a device"),
    ],
)
def test_a_tar_with_a_link_or_device_is_refused(tmp_path, kind, word):
    member = tarfile.TarInfo("one")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(DataUnavailable, match=f"'one' is {word}"):
        read_originals(write_tar(tmp_path / "a.tar.gz", [(member, b""), *regular()]), WANTED)


def test_a_zip_with_a_link_is_refused(tmp_path):
    member = zipfile.ZipInfo("one")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(DataUnavailable, match="'one' is a link"):
        read_originals(tmp_path / "a.zip", WANTED)


def test_a_cut_archive_is_named(tmp_path):
    whole = write_tar(tmp_path / "a.tar.gz", regular()).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataUnavailable, match=r"a\.tar\.gz.* is damaged"):
        read_originals(tmp_path / "a.tar.gz", WANTED)


def test_a_cut_gzip_file_is_named(tmp_path):
    for name, body in FILES.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(body)[:-9])
    with pytest.raises(DataUnavailable, match="damaged"):
        read_originals(tmp_path, WANTED)


def test_missing_and_doubled_files_are_named(tmp_path):
    (tmp_path / "one").write_bytes(b"1")
    with pytest.raises(DataUnavailable, match="lacks two-idx1-ubyte"):
        read_originals(tmp_path, WANTED)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one").write_bytes(b"1")
    with pytest.raises(DataUnavailable, match="'one' twice"):
        read_originals(tmp_path, WANTED)


def test_what_is_no_archive_is_named(tmp_path):
    (tmp_path / "page.html").write_text("<html>")
    with pytest.raises(DataUnavailable, match="neither a folder nor a tar nor a zip"):
        read_originals(tmp_path / "page.html", WANTED)
    with pytest.raises(DataUnavailable, match="does not exist"):
        read_originals(tmp_path / "nothing", WANTED)
