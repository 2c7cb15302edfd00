"""Fetch a file over HTTP: resumed after a cut, hashed while written, never half there."""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from steerec.errors import DownloadError

_log = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]

LOCK_FILE = "downloads.lock.json"
_TIMEOUT_S = 30.0
_BLOCK = 1 << 18
_REMEDY = "check the network, or put the data set's folder (with events.parquet) under --data-dir"


@dataclass(frozen=True)
class Fetched:
    """A file that arrived whole."""

    path: Path
    url: str
    size: int
    sha256: str
    md5: str


def fetch(url: str, target: Path, *, progress: Progress | None = None) -> Fetched:
    """Download `url` to `target`; a cut download is kept as `.part` and goes on from there.

    Args:
        progress: called with (bytes so far, bytes in all or None where the server does not say).
    Raises:
        DownloadError: if the server cannot be reached, refuses, or the connection breaks.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        with httpx.Client(follow_redirects=True, timeout=_TIMEOUT_S) as client:
            _fill(client, url, part, progress)
    except httpx.HTTPError as e:
        kept = part.stat().st_size if part.exists() else 0
        raise DownloadError(
            f"could not download {url} ({type(e).__name__}: {e}); {kept} bytes are kept and the "
            f"next try goes on from there. Otherwise {_REMEDY}"
        ) from e
    sha256, md5 = _digests(part)
    part.replace(target)
    fetched = Fetched(target, url, target.stat().st_size, sha256, md5)
    _log.info("downloaded url=%s bytes=%d sha256=%s", url, fetched.size, sha256)
    return fetched


def fetch_text(url: str) -> str:
    """Download a small text, such as a checksum file.

    Raises:
        DownloadError: as `fetch`.
    """
    try:
        answer = httpx.get(url, follow_redirects=True, timeout=_TIMEOUT_S)
    except httpx.HTTPError as e:
        raise DownloadError(f"could not read {url} ({type(e).__name__}: {e}): {_REMEDY}") from e
    if answer.status_code != httpx.codes.OK:
        raise DownloadError(f"{url} answered {answer.status_code}, expected 200: {_REMEDY}")
    return answer.text


def read_lock(cache_dir: Path) -> dict[str, dict[str, str | int]]:
    """File name → url, sha256 and bytes, as recorded at each file's first download.

    Raises:
        DownloadError: if the lock file is damaged.
    """
    path = cache_dir / LOCK_FILE
    if not path.exists():
        return {}
    try:
        lock = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise DownloadError(f"{path} is damaged ({e}): restore or delete it") from e
    if not isinstance(lock, dict) or not all(isinstance(v, dict) for v in lock.values()):
        raise DownloadError(f"{path} is damaged (no table of files): restore or delete it")
    return lock


def check_lock(fetched: Fetched, cache_dir: Path) -> None:
    """Compare a file with what the lock recorded at its first download.

    Raises:
        DownloadError: if its SHA-256 differs; the file is then removed.
    """
    known = read_lock(cache_dir).get(fetched.path.name)
    if known is not None:
        refuse_unless_equal(fetched, "SHA-256", fetched.sha256, str(known.get("sha256")))


def record_lock(fetched: Fetched, cache_dir: Path) -> None:
    """Remember a file's SHA-256 unless it is known already."""
    lock = read_lock(cache_dir)
    if fetched.path.name in lock:
        return
    lock[fetched.path.name] = {
        "url": fetched.url,
        "sha256": fetched.sha256,
        "bytes": fetched.size,
    }
    path = cache_dir / LOCK_FILE
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(lock, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)
    _log.info("recorded file=%s sha256=%s lock=%s", fetched.path.name, fetched.sha256, path)


def refuse_unless_equal(fetched: Fetched, method: str, got: str, expected: str) -> None:
    """Delete the file and stop if its checksum is another than expected.

    Raises:
        DownloadError: naming both checksums.
    """
    if got == expected:
        return
    fetched.path.unlink()
    raise DownloadError(
        f"{fetched.url} arrived with {method} {got}, expected {expected}: the file was removed; "
        f"try again, and if it stays so the publisher changed it. Otherwise {_REMEDY}"
    )


def _fill(client: httpx.Client, url: str, part: Path, progress: Progress | None) -> None:
    """Bring `part` to its full length, from its present end where the server allows that."""
    start = part.stat().st_size if part.exists() else 0
    # A packed transfer would have other byte positions than the file.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with client.stream("GET", url, headers=headers) as answer:
        if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            if _total(answer) == start:
                return  # cut after the last byte: nothing is missing
            part.unlink()
            raise DownloadError(
                f"{part} is longer than {url} now is: it was removed, try again from the start"
            )
        if answer.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            raise DownloadError(f"{url} answered {answer.status_code}, expected 200: {_REMEDY}")
        resumed = answer.status_code == httpx.codes.PARTIAL_CONTENT
        if resumed and _start(answer) != start:
            raise DownloadError(
                f"{url} sent bytes from {_start(answer)}, asked from {start}: delete {part} "
                "and try again"
            )
        total = _total(answer)
        with part.open("ab" if resumed else "wb") as file:
            for done in _copied(answer, file.write, start if resumed else 0):
                if progress is not None:
                    progress(done, total)
    _check_length(url, part, total)


def _copied(answer: httpx.Response, write: Callable[[bytes], int], start: int) -> Iterator[int]:
    done = start
    # Blocks as they come: a fixed size would lose its unfinished one when the line breaks.
    for block in answer.iter_raw():
        write(block)
        done += len(block)
        yield done


def _check_length(url: str, part: Path, total: int | None) -> None:
    size = part.stat().st_size
    if total is not None and size != total:
        raise DownloadError(f"{url} ended after {size} of {total} bytes: try again to go on")


def _start(answer: httpx.Response) -> int | None:
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _total(answer: httpx.Response) -> int | None:
    """Length of the whole file, None where the server does not say."""
    ranged = re.search(r"/(\d+)$", answer.headers.get("Content-Range", ""))
    if ranged:
        return int(ranged[1])
    length = answer.headers.get("Content-Length")
    return int(length) if length and answer.status_code == httpx.codes.OK else None


def _digests(path: Path) -> tuple[str, str]:
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            sha256.update(block)
            md5.update(block)
    return sha256.hexdigest(), md5.hexdigest()
