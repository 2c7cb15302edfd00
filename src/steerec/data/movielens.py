"""The two file forms of MovieLens: u.data with u.item and u.user, and ratings.dat with `::`."""

from pathlib import Path

import polars as pl

from steerec.data.counted import counted
from steerec.data.formats import check_file, guarded
from steerec.data.tables import RawTables
from steerec.errors import DataError

_RATING = ("user_id", "item_id", "rating", "timestamp")
_DAT_USER = ("user_id", "gender", "age", "occupation", "zip")
_U_USER = ("user_id", "age", "gender", "occupation", "zip")
_U_ITEM = ("item_id", "title", "release_date", "video_release_date", "imdb_url")
# Order of the genre flags where no u.genre lies beside u.item (the data set's README).
_GENRE_LINE = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|"
    "Film-Noir|Horror|Musical|Mystery|Romance|Sci-Fi|Thriller|War|Western"
)


def find_movielens(path: Path) -> Path | None:
    """The ratings file of a MovieLens folder (or of the file itself), None if there is none."""
    if path.is_dir():
        return next((path / n for n in ("u.data", "ratings.dat") if (path / n).is_file()), None)
    return path if path.name in ("u.data", "ratings.dat") else None


def read_movielens(ratings: Path) -> RawTables:
    """Read ratings, and films and people where their files lie beside them.

    Raises:
        DataError: if a file is damaged or of another form.
    """
    folder = ratings.parent
    if ratings.name == "u.data":
        events = _split_lines(ratings, "\t", _RATING)
        items = _u_items(folder / "u.item") if (folder / "u.item").exists() else None
        users = _optional(folder / "u.user", "|", _U_USER)
    else:
        events = _split_lines(ratings, "::", _RATING)
        items = _optional(folder / "movies.dat", "::", ("item_id", "title", "genres"))
        users = _optional(folder / "users.dat", "::", _DAT_USER)
    return RawTables(events, items, users, untyped=("events", "items", "users"))


def _optional(path: Path, separator: str, names: tuple[str, ...]) -> pl.DataFrame | None:
    return _split_lines(path, separator, names) if path.exists() else None


def _split_lines(path: Path, separator: str, names: tuple[str, ...]) -> pl.DataFrame:
    """Text columns from lines; the files are latin-1, as those of the nineties."""
    check_file(path)
    lines = guarded(path, lambda: pl.DataFrame({"line": _latin_lines(path)}))["line"]
    parts = lines.str.split(separator)
    wrong = (parts.list.len() != len(names)).arg_true()
    if len(wrong):
        raise DataError(
            f"{path} line {wrong[0] + 1} has {counted(len(parts[wrong[0]]), 'field')}, expected "
            f"{len(names)} ({', '.join(names)}) separated by {separator!r}"
        )
    return parts.list.to_struct(fields=list(names)).struct.unnest()


def _latin_lines(path: Path) -> list[str]:
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]


def _u_items(path: Path) -> pl.DataFrame:
    genre_file = path.with_name("u.genre")
    genres = _genre_names(genre_file) if genre_file.exists() else _GENRE_LINE.split("|")
    table = _split_lines(path, "|", (*_U_ITEM, *(f"flag_{i}" for i in range(len(genres)))))
    flags = [
        pl.when(pl.col(f"flag_{i}") == "1").then(pl.lit(name)) for i, name in enumerate(genres)
    ]
    return table.select(
        *(pl.col(c).replace("", None) for c in _U_ITEM),
        pl.concat_list(flags).list.drop_nulls().alias("genres"),
    )


def _genre_names(path: Path) -> list[str]:
    table = _split_lines(path, "|", ("name", "number"))
    return table.sort(pl.col("number").cast(pl.Int64))["name"].to_list()
