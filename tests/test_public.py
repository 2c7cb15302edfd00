import datetime
import gzip
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import polars as pl
import pytest

from steerec.data import public
from steerec.data.conversions import retail_tables
from steerec.data.download import fetch, read_lock
from steerec.data.public import PUBLIC_SETS, locate, unpack
from steerec.data.read import read_tables
from steerec.errors import DataError, DownloadError, MissingExtraError


@dataclass
class Site:
    """Files by name, what was asked for, and how often to hang up after so many bytes."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    cut_after: int | None = None
    ranges: bool = True
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self):
        name, wanted = self.path.lstrip("/"), self.headers.get("Range")
        self.site.asked.append((name, wanted))
        body = self.site.files.get(name)
        if body is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.site.ranges else 0
        if start and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cut, self.site.cut_after = self.site.cut_after, None
        self.wfile.write(body[start : None if cut is None else start + cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    here = Site()
    handler = type("Handler", (_Handler,), {"site": here})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    here.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield here
    server.shutdown()
    server.server_close()
    thread.join()


BODY = bytes(range(256)) * 4000  # about a megabyte: several blocks


def test_a_file_arrives_whole_with_its_checksums_and_progress(site, tmp_path):
    site.files["a.bin"] = BODY
    seen = []
    got = fetch(f"{site.url}/a.bin", tmp_path / "a.bin", progress=lambda *at: seen.append(at))
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert got.sha256 == hashlib.sha256(BODY).hexdigest()
    assert got.md5 == hashlib.md5(BODY).hexdigest()
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert not (tmp_path / "a.bin.part").exists()


def test_a_cut_download_goes_on_where_it_stopped(site, tmp_path):
    site.files["a.bin"] = BODY
    site.cut_after = 300_000
    target = tmp_path / "a.bin"
    with pytest.raises(DownloadError, match="300000 bytes are kept"):
        fetch(f"{site.url}/a.bin", target)
    assert not target.exists()
    assert (tmp_path / "a.bin.part").read_bytes() == BODY[:300_000]
    seen = []
    fetch(f"{site.url}/a.bin", target, progress=lambda *at: seen.append(at))
    assert target.read_bytes() == BODY
    assert site.asked[-1] == ("a.bin", "bytes=300000-")
    assert seen[0][0] > 300_000
    assert seen[-1] == (len(BODY), len(BODY))


def test_a_server_without_ranges_starts_again(site, tmp_path):
    site.files["a.bin"] = BODY
    site.ranges = False
    (tmp_path / "a.bin.part").write_bytes(b"other bytes")
    fetch(f"{site.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_a_part_that_was_whole_already_is_taken(site, tmp_path):
    site.files["a.bin"] = BODY
    (tmp_path / "a.bin.part").write_bytes(BODY)
    assert fetch(f"{site.url}/a.bin", tmp_path / "a.bin").size == len(BODY)
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_a_part_longer_than_the_file_is_removed(site, tmp_path):
    site.files["a.bin"] = b"short"
    (tmp_path / "a.bin.part").write_bytes(BODY)
    with pytest.raises(DownloadError, match="longer"):
        fetch(f"{site.url}/a.bin", tmp_path / "a.bin")
    fetch(f"{site.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == b"short"


def test_a_missing_file_names_its_address_and_the_way_out(site, tmp_path):
    with pytest.raises(DownloadError, match=r"/none\.bin answered 404.*--data-dir"):
        fetch(f"{site.url}/none.bin", tmp_path / "none.bin")
    assert list(tmp_path.iterdir()) == []


def test_no_server_is_a_clear_error(site, tmp_path):
    # The port of a server that has gone.
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    server.server_close()
    with pytest.raises(DownloadError, match=r"could not download .*a\.bin .*--data-dir"):
        fetch(f"{url}/a.bin", tmp_path / "a.bin")


def _zip(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return packed.getvalue()


ML_1M = _zip(
    {
        "ml-1m/ratings.dat": b"1::10::5::978300760\n1::20::3::978300761\n2::10::4::978300000\n",
        "ml-1m/movies.dat": (
            "10::Caf\xe9 Story (1995)::Animation|Comedy\n20::Rain (1998)::Drama\n".encode("latin-1")
        ),
        "ml-1m/users.dat": b"1::F::1::10::48067\n2::M::56::16::70072\n",
        "ml-1m/README": b"terms",
    }
)


def _offer(site: Site, name: str, body: bytes) -> None:
    site.files[name] = body
    site.files[f"{name}.md5"] = f"MD5 ({name}) = {hashlib.md5(body).hexdigest()}\n".encode()


def test_ml_1m_is_downloaded_converted_and_then_found_without_network(site, tmp_path):
    _offer(site, "ml-1m.zip", ML_1M)
    folder = locate("ml-1m", data_dir=None, cache_dir=tmp_path, base_url=site.url)
    events = pl.read_parquet(folder / "events.parquet")
    assert events.select("user_id", "item_id", "event", "value", "timestamp").rows() == [
        ("1", "10", "rating", 5.0, 978300760),
        ("1", "20", "rating", 3.0, 978300761),
        ("2", "10", "rating", 4.0, 978300000),
    ]
    items = pl.read_parquet(folder / "items.parquet")
    assert items["title"].to_list() == ["Café Story (1995)", "Rain (1998)"]
    assert items["categories"].to_list() == [["Animation", "Comedy"], ["Drama"]]
    users = pl.read_parquet(folder / "users.parquet").select("gender", "age_band", "occupation")
    assert users.rows() == [("F", "Under 18", "K-12 student"), ("M", "56+", "self-employed")]
    lock = read_lock(tmp_path)["ml-1m.zip"]
    assert lock["sha256"] == hashlib.sha256(ML_1M).hexdigest()
    assert lock["bytes"] == len(ML_1M)
    n_asked = len(site.asked)
    assert locate("ml-1m", data_dir=None, cache_dir=tmp_path, base_url=site.url) == folder
    assert len(site.asked) == n_asked
    assert read_tables(folder).tables.events["item_id"].to_list() == ["10", "20", "10"]


def test_ml_100k_is_converted_from_its_own_file_form(site, tmp_path):
    flags = ["0"] * 19
    flags[1] = flags[5] = "1"
    item = "|".join(["1", "Toys (1995)", "01-Jan-1995", "", "http://x", *flags])
    body = _zip(
        {
            "ml-100k/u.data": b"7\t1\t4\t881250949\n8\t1\t2\t881250950\n",
            "ml-100k/u.item": item.encode() + b"\n",
            "ml-100k/u.user": b"7|24|M|technician|85711\n8|53|F|other|94043\n",
        }
    )
    _offer(site, "ml-100k.zip", body)
    folder = locate("ml-100k", data_dir=None, cache_dir=tmp_path, base_url=site.url)
    assert pl.read_parquet(folder / "events.parquet")["value"].to_list() == [4.0, 2.0]
    assert pl.read_parquet(folder / "items.parquet")["categories"].to_list() == [
        ["Action", "Comedy"]
    ]
    assert pl.read_parquet(folder / "users.parquet")["age"].to_list() == [24, 53]


def test_a_folder_of_your_own_is_taken_before_any_download(site, tmp_path):
    mine = tmp_path / "data" / "ml-1m"
    mine.mkdir(parents=True)
    (mine / "events.parquet").write_bytes(b"mine")
    cache = tmp_path / "cache"
    found = locate("ml-1m", data_dir=tmp_path / "data", cache_dir=cache, base_url=site.url)
    assert found == mine
    assert site.asked == []


def test_a_file_unlike_the_publishers_checksum_is_refused_and_removed(site, tmp_path):
    _offer(site, "ml-1m.zip", ML_1M)
    site.files["ml-1m.zip"] = ML_1M + b"more"
    with pytest.raises(DownloadError, match=hashlib.md5(ML_1M).hexdigest()):
        locate("ml-1m", data_dir=None, cache_dir=tmp_path, base_url=site.url)
    assert not (tmp_path / "ml-1m").exists()
    assert list((tmp_path / "downloads").iterdir()) == []
    assert read_lock(tmp_path) == {}


def test_the_publishers_checksum_file_must_hold_one(site, tmp_path):
    site.files["ml-1m.zip"] = ML_1M
    site.files["ml-1m.zip.md5"] = b"<html>moved</html>"
    with pytest.raises(DownloadError, match="holds no MD5"):
        locate("ml-1m", data_dir=None, cache_dir=tmp_path, base_url=site.url)


def test_the_known_checksum_stands_above_the_one_beside_the_file(site, tmp_path, monkeypatch):
    _offer(site, "ml-1m.zip", ML_1M)
    here = replace(PUBLIC_SETS["ml-1m"], base_url=site.url)
    monkeypatch.setattr(public, "PUBLIC_SETS", {"ml-1m": here})
    with pytest.raises(DownloadError, match="c4d9eecfca2ab87c1945afe126590906"):
        locate("ml-1m", data_dir=None, cache_dir=tmp_path)


def _amazon(site: Site, stars: float = 5.0) -> None:
    reviews = [
        {"reviewerID": "R1", "asin": "B1", "overall": stars, "unixReviewTime": 1390000000},
        {"reviewerID": "R2", "asin": "B2", "overall": 2.0, "unixReviewTime": 1390086400},
    ]
    lines = "\n".join(json.dumps(r) for r in reviews)
    products = [
        {
            "asin": "B1",
            "title": 'Tom\'s "best" soap',
            "price": 3.5,
            "categories": [["Beauty", "Bath"], ["Beauty", "Soap"]],
            "brand": "",
        },
        {"asin": "B9", "title": "not reviewed"},
    ]
    site.files["reviews_Beauty_5.json.gz"] = gzip.compress(lines.encode(), mtime=0)
    text = "\n".join(repr(p) for p in products)
    site.files["meta_Beauty.json.gz"] = gzip.compress(text.encode(), mtime=0)


def test_amazon_beauty_is_read_from_reviews_and_literal_products(site, tmp_path):
    _amazon(site)
    folder = locate("amazon-beauty", data_dir=None, cache_dir=tmp_path, base_url=site.url)
    assert pl.read_parquet(folder / "events.parquet").rows() == [
        ("R1", "B1", "rating", 5.0, 1390000000),
        ("R2", "B2", "rating", 2.0, 1390086400),
    ]
    assert pl.read_parquet(folder / "items.parquet").rows() == [
        ("B1", 'Tom\'s "best" soap', None, ["Beauty", "Bath", "Soap"], None, 3.5)
    ]


def test_a_later_download_must_equal_the_first_one(site, tmp_path):
    _amazon(site)
    folder = locate("amazon-beauty", data_dir=None, cache_dir=tmp_path, base_url=site.url)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    _amazon(site, stars=1.0)
    with pytest.raises(DownloadError, match="SHA-256"):
        locate("amazon-beauty", data_dir=None, cache_dir=tmp_path, base_url=site.url)
    assert not folder.exists()


def test_what_cannot_be_converted_is_not_recorded_and_leaves_no_folder(site, tmp_path):
    _amazon(site)
    whole = site.files["meta_Beauty.json.gz"]
    site.files["meta_Beauty.json.gz"] = whole[:-12]
    with pytest.raises(DataError, match="damaged"):
        locate("amazon-beauty", data_dir=None, cache_dir=tmp_path, base_url=site.url)
    assert read_lock(tmp_path) == {}
    assert [p.name for p in tmp_path.iterdir()] == ["downloads"]
    site.files["meta_Beauty.json.gz"] = whole
    assert locate("amazon-beauty", data_dir=None, cache_dir=tmp_path, base_url=site.url).exists()


def test_a_review_that_is_none_is_named_by_its_line(site, tmp_path):
    _amazon(site)
    broken = b'{"reviewerID": "R1", "asin": "B1", "overall": 5.0, "unixReviewTime": 1}\nnonsense\n'
    site.files["reviews_Beauty_5.json.gz"] = gzip.compress(broken)
    with pytest.raises(DataError, match="line 2 is no review"):
        locate("amazon-beauty", data_dir=None, cache_dir=tmp_path, base_url=site.url)


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/etc/evil", "a/../../evil", "..\\evil", "C:/evil"]
)
def test_a_zip_that_points_outside_is_refused(name, tmp_path):
    archive = tmp_path / "a.zip"
    archive.write_bytes(_zip({"fine.txt": b"1", name: b"2"}))
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="leads outside"):
        unpack(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_truncated_zip_is_refused(tmp_path):
    archive = tmp_path / "a.zip"
    archive.write_bytes(ML_1M[:-40])
    with pytest.raises(DataError, match="no whole zip"):
        unpack(archive, tmp_path / "out")


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(DataError, match="ml-1m, ml-100k, online-retail, amazon-beauty"):
        locate("ml-2m", data_dir=None, cache_dir=tmp_path)


def test_a_missing_excel_reader_is_told_before_the_download(site, tmp_path, monkeypatch):
    monkeypatch.setattr("steerec.data.conversions.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'steerec\[excel\]'"):
        locate("online-retail", data_dir=None, cache_dir=tmp_path, base_url=site.url)
    assert site.asked == []


def test_invoice_lines_become_purchases_returns_and_corrections():
    at = datetime.datetime(2010, 12, 1, 8, 26)
    lines = pl.DataFrame(
        {
            "InvoiceNo": ["536365", "C536379", "A563185", "536414", "536366"],
            "StockCode": ["85123A", "85123A", "B", "85123A ", "85123A"],
            "Description": ["WHITE HEART ", "Discount", "Adjust", None, "RED HEART"],
            "Quantity": [6, -1, 1, -56, 2],
            "InvoiceDate": [at] * 5,
            "UnitPrice": [2.55, 2.55, 11062.06, 0.0, 2.95],
            "CustomerID": [17850.0, 14527.0, None, None, 17850.0],
            "Country": ["United Kingdom"] * 5,
        }
    )
    tables = retail_tables(lines)
    assert tables.events["event"].to_list() == [
        "purchase",
        "return",
        "adjustment",
        "stock_correction",
        "purchase",
    ]
    assert tables.events["user_id"].to_list() == ["17850", "14527", None, None, "17850"]
    assert tables.events["timestamp"].to_list() == [1291191960] * 5  # 2010-12-01 08:26 UTC
    assert tables.events["invoice_no"][1] == "C536379"
    assert tables.items.rows() == [("85123A", "RED HEART", 2.55), ("B", None, 11062.06)]
    assert tables.users.rows() == [("14527", "United Kingdom"), ("17850", "United Kingdom")]


def test_a_workbook_of_another_form_is_refused():
    with pytest.raises(DataError, match="CustomerID"):
        retail_tables(pl.DataFrame({"InvoiceNo": ["1"], "StockCode": ["a"]}))


def test_a_damaged_lock_is_told(tmp_path):
    (tmp_path / "downloads.lock.json").write_text("{oops")
    with pytest.raises(DownloadError, match="damaged"):
        read_lock(tmp_path)


def test_a_cache_that_cannot_be_used_is_told_before_the_download(site, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match="cannot be made"):
        locate("ml-1m", data_dir=None, cache_dir=tmp_path / "file", base_url=site.url)
    (tmp_path / "ml-1m").mkdir()
    with pytest.raises(DataError, match=r"holds no events\.parquet"):
        locate("ml-1m", data_dir=None, cache_dir=tmp_path, base_url=site.url)
    assert site.asked == []
