"""Transfers over a real socket: whole, wrong, cut, refused, resumed."""

import hashlib
import socket

import pytest

from trove_jax.core import DataUnavailable
from trove_jax.data.download import download, file_sha256

BODY = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(BODY).hexdigest()


def fetch(urls, target, **changes):
    return download(urls, target, **{"sha256": DIGEST, "size": len(BODY), "timeout": 5} | changes)


def test_brings_a_good_file_and_reports_progress(server, samples, tmp_path):
    server.files["/a.bin"] = samples.served(BODY)
    seen = []
    target = tmp_path / "deep" / "a.bin"
    path = fetch([f"{server.url}/a.bin"], target, progress=lambda *report: seen.append(report))
    assert path == target
    assert path.read_bytes() == BODY
    assert seen[-1] == ("a.bin", len(BODY), len(BODY))
    assert [file.name for file in path.parent.iterdir()] == ["a.bin"]


def test_does_not_fetch_what_is_here_and_intact(server, tmp_path):
    (tmp_path / "a.bin").write_bytes(BODY)
    assert fetch([f"{server.url}/a.bin"], tmp_path / "a.bin").read_bytes() == BODY
    assert server.requests == []


def test_replaces_a_bad_file_that_is_here(server, samples, tmp_path):
    server.files["/a.bin"] = samples.served(BODY)
    (tmp_path / "a.bin").write_bytes(b"old")
    assert fetch([f"{server.url}/a.bin"], tmp_path / "a.bin").read_bytes() == BODY
    assert (tmp_path / "a.bin.rejected").read_bytes() == b"old"


@pytest.mark.parametrize("size", [len(BODY), None])
def test_a_wrong_digest_is_named_and_set_aside(server, samples, tmp_path, size):
    wrong = b"x" + BODY[1:]
    server.files["/a.bin"] = samples.served(wrong)
    with pytest.raises(DataUnavailable) as caught:
        fetch([f"{server.url}/a.bin"], tmp_path / "a.bin", size=size)
    message = str(caught.value)
    assert f"expected {DIGEST}" in message
    assert f"found {hashlib.sha256(wrong).hexdigest()}" in message
    assert "\n" not in message
    assert (tmp_path / "a.bin.rejected").read_bytes() == wrong
    assert not (tmp_path / "a.bin").exists()
    assert not (tmp_path / "a.bin.part").exists()


@pytest.mark.parametrize("size", [len(BODY), None])
def test_a_cut_transfer_is_kept_and_resumed_with_the_missing_bytes_only(
    server, samples, tmp_path, size
):
    server.files["/a.bin"] = samples.served(BODY, cut_at=300_000)
    with pytest.raises(DataUnavailable, match=r"cut at 300000 of 1024000 .* same command resumes"):
        fetch([f"{server.url}/a.bin"], tmp_path / "a.bin", size=size)
    assert (tmp_path / "a.bin.part").read_bytes() == BODY[:300_000]
    assert not (tmp_path / "a.bin").exists()
    server.files["/a.bin"] = samples.served(BODY)
    assert fetch([f"{server.url}/a.bin"], tmp_path / "a.bin").read_bytes() == BODY
    assert server.requests[-1] == ("/a.bin", "bytes=300000-")
    assert not (tmp_path / "a.bin.part").exists()


def test_starts_again_where_the_server_ignores_ranges(server, samples, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(b"not the beginning of this file")
    server.files["/a.bin"] = samples.served(BODY, honours_range=False)
    assert fetch([f"{server.url}/a.bin"], tmp_path / "a.bin").read_bytes() == BODY
    assert server.requests == [("/a.bin", "bytes=30-")]


def test_resuming_onto_foreign_bytes_is_found_by_the_digest(server, samples, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(b"?" * 1000)
    server.files["/a.bin"] = samples.served(BODY)
    with pytest.raises(DataUnavailable, match="wrong SHA-256"):
        fetch([f"{server.url}/a.bin"], tmp_path / "a.bin")
    assert fetch([f"{server.url}/a.bin"], tmp_path / "a.bin").read_bytes() == BODY


@pytest.mark.parametrize("size", [len(BODY), None])
def test_a_part_longer_than_the_file_is_dropped(server, samples, tmp_path, size):
    (tmp_path / "a.bin.part").write_bytes(BODY + b"more")
    server.files["/a.bin"] = samples.served(BODY)
    assert fetch([f"{server.url}/a.bin"], tmp_path / "a.bin", size=size).read_bytes() == BODY


def test_a_whole_part_needs_no_transfer(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(BODY)
    assert fetch([f"{server.url}/a.bin"], tmp_path / "a.bin").read_bytes() == BODY
    assert server.requests == []


def test_not_found_names_the_address(server, tmp_path):
    with pytest.raises(DataUnavailable) as caught:
        fetch([f"{server.url}/gone.bin"], tmp_path / "gone.bin")
    assert f"{server.url}/gone.bin: HTTP 404" in str(caught.value)
    assert caught.value.exit_code == 66
    assert list(tmp_path.iterdir()) == []


def test_goes_on_to_the_next_address(server, samples, tmp_path):
    server.files["/wrong/a.bin"] = samples.served(b"w" * len(BODY))
    server.files["/cut/a.bin"] = samples.served(BODY, cut_at=1000)
    server.files["/good/a.bin"] = samples.served(BODY)
    urls = [f"{server.url}/{folder}/a.bin" for folder in ("none", "wrong", "cut", "good")]
    assert fetch(urls, tmp_path / "a.bin").read_bytes() == BODY
    assert server.requests[-1] == ("/good/a.bin", "bytes=1000-")


def test_an_offer_of_another_size_is_refused_before_it_is_read(server, samples, tmp_path):
    server.files["/a.bin"] = samples.served(b"<html>please log in</html>")
    with pytest.raises(DataUnavailable, match="offers 26 bytes, the published size is 1024000"):
        fetch([f"{server.url}/a.bin"], tmp_path / "a.bin")


def test_a_silent_server_is_given_up(server, samples, tmp_path):
    server.files["/a.bin"] = samples.served(BODY, delay=10)
    with pytest.raises(DataUnavailable, match="timed out"):
        fetch([f"{server.url}/a.bin"], tmp_path / "a.bin", timeout=0.2)


def test_nobody_there(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DataUnavailable, match=rf"127\.0\.0\.1:{port}/a\.bin: .*refused"):
        fetch([f"http://127.0.0.1:{port}/a.bin"], tmp_path / "a.bin")


def test_two_processes_do_not_write_one_part(server, samples, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    server.files["/a.bin"] = samples.served(BODY)
    with open(tmp_path / "a.bin.lock", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DataUnavailable, match="another process is fetching"):
            fetch([f"{server.url}/a.bin"], tmp_path / "a.bin")
    assert fetch([f"{server.url}/a.bin"], tmp_path / "a.bin").read_bytes() == BODY


def test_refuses_addresses_that_are_not_http(tmp_path):
    with pytest.raises(ValueError, match="file:///etc/passwd"):
        fetch(["file:///etc/passwd"], tmp_path / "a.bin")


def test_a_folder_that_cannot_be_made_is_one_line(server, samples, tmp_path):
    server.files["/a.bin"] = samples.served(BODY)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataUnavailable, match="could not store"):
        fetch([f"{server.url}/a.bin"], tmp_path / "file" / "a.bin")


def test_file_digest_is_that_of_hashlib(tmp_path):
    (tmp_path / "a").write_bytes(BODY)
    assert file_sha256(tmp_path / "a") == DIGEST
