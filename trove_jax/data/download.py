"""Fetching a file over HTTP: resumable, checked against its SHA-256, in place only when whole."""

import contextlib
import hashlib
import http.client
import logging
import os
import pathlib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence

from trove_jax.core import DataUnavailable

Progress = Callable[[str, int, int | None], None]

_CHUNK_BYTES = 1 << 18
_log = logging.getLogger(__name__)


class _TransferFailed(Exception):
    """This address did not give the file; another may."""


def download(
    urls: Sequence[str],
    target: str | os.PathLike,
    *,
    sha256: str,
    size: int | None = None,
    timeout: float = 60.0,
    progress: Progress | None = None,
) -> pathlib.Path:
    """Brings one file here from the first address that has it.

    The bytes go to `<target>.part`, which a later call continues where the server allows it (HTTP
    Range); the file gets its name only after its digest was found right. A file with a wrong digest
    is set aside as `<target>.rejected`. Contents are never executed or unpacked here.

    Args:
      urls: addresses of the same file, http or https, tried in order.
      target: where the file goes. If it is there already and intact, nothing is fetched.
      sha256: the expected digest, 64 hexadecimal digits.
      size: the expected number of bytes, if it is published.
      timeout: seconds without an answer after which an address is given up.
      progress: called as `progress(file name, bytes so far, bytes in all or None)`.

    Returns:
      `target` as a path.

    Raises:
      ValueError: an address is not http or https.
      DataUnavailable: no address gave the file; says why for each, and what is kept.
    """
    target = pathlib.Path(target)
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"urls holds {url!r}; it must begin with http:// or https://")
    part = target.with_name(target.name + ".part")
    failures = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target):
            if target.exists():
                if file_sha256(target) == sha256:
                    return target
                set_aside(target, suffix=".rejected")
            for url in urls:
                try:
                    _transfer(url, part, size=size, timeout=timeout, progress=progress)
                except (_TransferFailed, OSError, http.client.HTTPException) as error:
                    failures.append(f"{url}: {_reason(error)}")
                    continue
                found = file_sha256(part)
                if found == sha256:
                    os.replace(part, target)
                    _log.info("fetched %s from %s", target, url)
                    return target
                rejected = target.with_name(target.name + ".rejected")
                os.replace(part, rejected)
                failures.append(
                    f"{url}: wrong SHA-256, expected {sha256}, found {found}; "
                    f"the file was set aside as {rejected}"
                )
    except OSError as error:
        raise DataUnavailable(f"could not store {target}: {error}") from error
    message = f"could not fetch {target.name}: " + "; ".join(failures or ["no address is known"])
    if part.exists() and part.stat().st_size:
        message += f"; {part.stat().st_size} bytes are kept in {part}, the same command resumes"
    raise DataUnavailable(message)


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def set_aside(path: pathlib.Path, *, suffix: str) -> pathlib.Path:
    """Renames a bad file out of the way, over an older one of that name; returns its new path."""
    aside = path.with_name(path.name + suffix)
    os.replace(path, aside)
    return aside


def _transfer(
    url: str, part: pathlib.Path, *, size: int | None, timeout: float, progress: Progress | None
) -> None:
    have = part.stat().st_size if part.exists() else 0
    if size is not None and have == size:
        return
    if size is not None and have > size:
        have = 0
    with _open(url, have, timeout) as response:
        resumed = response.status == 206
        if resumed and not _continues(response, have):
            raise _TransferFailed("the server sent another range than the one asked for")
        done = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length and length.isdigit() else size
        if size is not None and total != size:
            raise _TransferFailed(f"the server offers {total} bytes, the published size is {size}")
        with open(part, "ab" if resumed else "wb") as file:
            while chunk := response.read(_CHUNK_BYTES):
                done += len(chunk)
                if total is not None and done > total:
                    raise _TransferFailed(f"the server sends more than {total} bytes")
                file.write(chunk)
                if progress is not None:
                    progress(part.name.removesuffix(".part"), done, total)
    if total is not None and done < total:
        raise _TransferFailed(f"the transfer was cut at {done} of {total} bytes")


def _open(url: str, have: int, timeout: float) -> http.client.HTTPResponse:
    headers = {"User-Agent": "trove_jax", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:
            return _open(url, 0, timeout)
        raise _TransferFailed(f"HTTP {error.code} {error.reason}") from error


def _continues(response: http.client.HTTPResponse, have: int) -> bool:
    return response.headers.get("Content-Range", "").replace("=", " ").startswith(f"bytes {have}-")


@contextlib.contextmanager
def _lock(target: pathlib.Path) -> Iterator[None]:
    """Keeps a second process away from the same `.part`; without flock the digest still guards."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    path = target.with_name(target.name + ".lock")
    with open(path, "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataUnavailable(
                f"another process is fetching {target}; wait for it, then run this again"
            ) from None
        except OSError:
            _log.debug("no file locks on this file system")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.URLError):
        error = error.reason if isinstance(error.reason, BaseException) else error
    return " ".join(str(error).split()) or type(error).__name__
