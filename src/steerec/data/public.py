"""Public data sets by name: found under the data folder, else downloaded once and converted.

Nothing of these sets is part of steerec; their terms are their publishers'.
"""

import logging
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from steerec.data.conversions import (
    check_excel_reader,
    convert_amazon,
    convert_movielens,
    convert_retail,
)
from steerec.data.download import (
    Fetched,
    Progress,
    check_lock,
    fetch,
    fetch_text,
    record_lock,
    refuse_unless_equal,
)
from steerec.data.tables import Tables
from steerec.errors import DataError, DownloadError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublicSet:
    """Where a set comes from and how its files become tables.

    Attributes:
        base_url: folder of the files at the publisher's.
        files: names under base_url, the first holding the events.
        convert: reads the folder with the downloaded files, archives unpacked.
        md5: the publisher's checksum of the first file, also in `<file>.md5` beside it; None where
            the publisher gives none, so that the SHA-256 of the first download counts.
        check: what must be installed, tested before the download.
    """

    base_url: str
    files: tuple[str, ...]
    convert: Callable[[Path], Tables]
    md5: str | None = None
    check: Callable[[], None] = lambda: None


_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"

PUBLIC_SETS: Mapping[str, PublicSet] = {
    "ml-1m": PublicSet(
        _GROUPLENS,
        ("ml-1m.zip",),
        lambda folder: convert_movielens(folder / "ml-1m"),
        md5="c4d9eecfca2ab87c1945afe126590906",  # GroupLens, ml-1m.zip.md5
    ),
    "ml-100k": PublicSet(
        _GROUPLENS,
        ("ml-100k.zip",),
        lambda folder: convert_movielens(folder / "ml-100k"),
        md5="0e33842e24a9c977be4e0107933c0723",  # GroupLens, ml-100k.zip.md5
    ),
    "online-retail": PublicSet(
        "https://archive.ics.uci.edu/static/public/352",
        ("online+retail.zip",),
        lambda folder: convert_retail(folder / "Online Retail.xlsx"),
        check=check_excel_reader,
    ),
    "amazon-beauty": PublicSet(
        _SNAP,
        ("reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"),
        lambda folder: convert_amazon(
            folder / "reviews_Beauty_5.json.gz", folder / "meta_Beauty.json.gz"
        ),
    ),
}


def locate(
    name: str,
    *,
    data_dir: Path | None,
    cache_dir: Path,
    progress: Progress | None = None,
    base_url: str | None = None,
) -> Path:
    """Find a public set's folder (events.parquet, items.parquet, users.parquet), or fetch it.

    Args:
        data_dir: looked in first, for a folder of this name.
        cache_dir: where downloads and their checksums (`downloads.lock.json`) are kept.
        progress: called with (bytes so far, bytes in all or None) for each file.
        base_url: a mirror's folder instead of the publisher's.
    Raises:
        DataError: if the name is unknown, or what arrived is not what it should be.
        DownloadError: if it cannot be fetched or its checksum differs.
        MissingExtraError: if reading its form needs a package that is not installed.
    """
    wanted = PUBLIC_SETS.get(name)
    if wanted is None:
        raise DataError(f"unknown data set {name!r}; known by name: {', '.join(PUBLIC_SETS)}")
    for folder in (data_dir, cache_dir):
        if folder is not None and (folder / name / "events.parquet").is_file():
            _log.info("found set=%s folder=%s", name, folder / name)
            return folder / name
    wanted.check()
    _check_cache(cache_dir, name)
    files = _download(wanted, cache_dir, progress, base_url)
    _convert(wanted, [file.path for file in files], cache_dir / name)
    # Only now: a file that does not even unpack must not become the reference.
    for file in files:
        record_lock(file, cache_dir)
        file.path.unlink()
    return cache_dir / name


def _check_cache(cache_dir: Path, name: str) -> None:
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise DataError(f"cache folder {cache_dir} cannot be made ({e}): choose another") from e
    if (cache_dir / name).exists():
        raise DataError(f"{cache_dir / name} exists but holds no events.parquet: delete or fill it")


def unpack(archive: Path, folder: Path) -> None:
    """Extract a zip, refusing members that would land outside `folder`.

    Raises:
        DataError: if the archive is damaged or a member's path leaves the folder.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            for member in packed.namelist():
                path = PurePosixPath(member.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts or ":" in member:
                    raise DataError(
                        f"{archive} holds {member!r}, which leads outside: not unpacked"
                    )
            packed.extractall(folder)
    except (zipfile.BadZipFile, EOFError, zlib.error) as e:
        raise DataError(f"{archive} is no whole zip file ({e}): download it again") from e


def _download(
    wanted: PublicSet, cache_dir: Path, progress: Progress | None, base_url: str | None
) -> list[Fetched]:
    base = (base_url or wanted.base_url).rstrip("/")
    files = []
    for place, file_name in enumerate(wanted.files):
        url = f"{base}/{file_name}"
        expected = _published_md5(wanted, url, official=base_url is None) if place == 0 else None
        fetched = fetch(url, cache_dir / "downloads" / file_name, progress=progress)
        if expected is not None:
            refuse_unless_equal(fetched, "MD5", fetched.md5, expected)
        check_lock(fetched, cache_dir)
        files.append(fetched)
    return files


def _published_md5(wanted: PublicSet, url: str, *, official: bool) -> str | None:
    """The checksum in `<url>.md5`; at the publisher's own address it must be the one we know."""
    if wanted.md5 is None:
        return None
    words = fetch_text(url + ".md5").replace("=", " ").split()
    found = next((w.lower() for w in words if len(w) == 32 and w.isalnum()), None)
    if found is None:
        raise DownloadError(f"{url}.md5 holds no MD5 checksum: {' '.join(words)[:80]!r}")
    if official and found != wanted.md5:
        raise DownloadError(
            f"{url}.md5 says {found}, but the known release has {wanted.md5}: the publisher "
            "changed the set; put the release you want under --data-dir"
        )
    return found


def _convert(wanted: PublicSet, files: list[Path], target: Path) -> None:
    """Unpack and convert in a folder apart, then move the finished layout to `target`."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as name:
        raw, made = Path(name) / "raw", Path(name) / "made"
        raw.mkdir()
        made.mkdir()
        for file in files:
            if file.suffix == ".zip":
                unpack(file, raw)
            else:
                shutil.copy2(file, raw)
        tables = wanted.convert(raw)
        tables.events.write_parquet(made / "events.parquet")
        for side, frame in (("items", tables.items), ("users", tables.users)):
            if frame is not None:
                frame.write_parquet(made / f"{side}.parquet")
        made.replace(target)
    _log.info("converted events=%d folder=%s", len(tables.events), target)
