"""Downloads from a server of our own: whole, interrupted, cut off, wrong and impossible."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import re
import shutil
import threading
from pathlib import Path

import pytest

from experiments.data import download, load, registry
from experiments.errors import UserError
from tests.experiments.raw_files import EVENTS, amazon, movielens

BEAUTY = "reviews_Beauty_5.json.gz"


@dataclasses.dataclass
class Web:
    """A server of one file, which may behave badly."""

    content: bytes = b""
    url: str = ""
    etag: str | None = '"one"'
    ranges: bool = True
    cut: int | None = None  # bytes sent before the line is dropped
    told: int | None = None  # the length told, where it is wrong
    status: int = 200
    encoding: str | None = None
    requests: list[str | None] = dataclasses.field(default_factory=list)  # their ranges


@pytest.fixture
def web(tmp_path, monkeypatch):
    """The source of beauty and of MovieLens."""
    state = Web(amazon(tmp_path / "whole").read_bytes())

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            """Says nothing."""

        def do_GET(self):
            asked = self.headers.get("Range")
            state.requests.append(asked)
            start, status = 0, state.status
            if asked and state.ranges and self.headers.get("If-Range") == state.etag:
                start = int(re.search(r"\d+", asked)[0])
                status = 206 if start < len(state.content) else 416
            body = state.content[start:]
            self.send_response(status)
            self.send_header("Content-Length", str(state.told or len(body)))
            if status == 206:
                total = len(state.content)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            if state.etag:
                self.send_header("ETag", state.etag)
            if state.encoding:
                self.send_header("Content-Encoding", state.encoding)
            self.end_headers()
            self.wfile.write(body[: state.cut])

    monkeypatch.setattr(download, "CHUNK", 10)
    monkeypatch.setenv("SEVO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SEVO_DATA", raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        state.url = f"http://127.0.0.1:{server.server_port}"
        for name in ("beauty", "ml-1m"):
            source = dataclasses.replace(registry.SOURCES[name], url=state.url)
            monkeypatch.setitem(registry.SOURCES, name, source)
        yield state
        server.shutdown()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def fails(folder: Path, name: str = "beauty") -> str:
    with pytest.raises(UserError) as caught:
        load(name, folder)
    assert not (folder / registry.SOURCES[name].raw).exists()
    return str(caught.value)


def test_download(web, tmp_path):
    folder = tmp_path / "data"
    assert load("beauty", folder).lengths.tolist() == [5] * 5
    assert files(folder) == [BEAUTY, f"{BEAUTY}.sha256.json"]
    web.status = 404
    assert load("beauty", folder).lengths.tolist() == [5] * 5
    assert len(web.requests) == 1  # not fetched again


def test_without_a_folder_the_cache_holds_the_file(web, tmp_path):
    load("beauty")
    assert BEAUTY in files(tmp_path / "cache")
    load("beauty", tmp_path / "elsewhere")
    assert len(web.requests) == 1
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_cannot_be_written(web, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert load("beauty", tmp_path / "file" / "folder").num_users == 5
    assert BEAUTY in files(tmp_path / "cache")
    load("beauty", tmp_path / "file" / "folder")
    assert len(web.requests) == 1


def test_failed_download_says_what_to_do(web, tmp_path):
    web.status = 404
    message = fails(tmp_path / "data")
    assert message.startswith(f"{tmp_path / 'data'}: holds neither Beauty.txt nor {BEAUTY}")
    assert "404" in message
    assert f"{web.url}/{BEAUTY} failed" in message
    assert "put either file there by hand, or name its folder as the data_dir" in message
    assert "what has come is kept" not in message
    assert files(tmp_path / "data") == []


def test_no_network(web, tmp_path, monkeypatch):
    source = dataclasses.replace(registry.SOURCES["beauty"], url="http://127.0.0.1:1")
    monkeypatch.setitem(registry.SOURCES, "beauty", source)
    message = fails(tmp_path / "data")
    assert f"{tmp_path / 'data'}: holds neither" in message
    assert f"http://127.0.0.1:1/{BEAUTY} failed" in message
    assert "put either file there by hand" in message


def test_an_interrupted_download_is_gone_on_with(web, tmp_path):
    folder = tmp_path / "data"
    web.cut = 100
    assert "what has come is kept, and the same command goes on from there" in fails(folder)
    assert (folder / f"{BEAUTY}.part").read_bytes() == web.content[:100]
    web.cut = 50
    fails(folder)
    assert (folder / f"{BEAUTY}.part").read_bytes() == web.content[:149]
    web.cut = None
    assert load("beauty", folder).num_users == 5
    assert web.requests == [None, "bytes=99-", "bytes=148-"]
    assert (folder / BEAUTY).read_bytes() == web.content
    assert files(folder) == [BEAUTY, f"{BEAUTY}.sha256.json"]


def test_a_download_interrupted_at_its_very_end(web, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / f"{BEAUTY}.part").write_bytes(web.content)
    (folder / f"{BEAUTY}.part.validator").write_text(web.etag)
    assert load("beauty", folder).num_users == 5
    assert web.requests == [f"bytes={len(web.content) - 1}-"]


@pytest.mark.parametrize("why", ["no ranges", "another version", "no version"])
def test_what_cannot_be_gone_on_with_starts_from_zero(web, tmp_path, why):
    folder = tmp_path / "data"
    web.cut = 100
    web.etag = None if why == "no version" else web.etag
    fails(folder)
    web.cut = None
    web.ranges = why != "no ranges"
    if why == "another version":
        web.content = amazon(tmp_path / "new", EVENTS[::-1]).read_bytes()
        web.etag = '"two"'
    assert load("beauty", folder).num_users == 5
    assert (folder / BEAUTY).read_bytes() == web.content
    assert web.requests == [None, None if why == "no version" else "bytes=99-"]


def test_a_body_shorter_than_told(web, tmp_path):
    web.told = len(web.content) + 10
    message = fails(tmp_path / "data")
    assert "what has come is kept" in message
    assert files(tmp_path / "data") == [f"{BEAUTY}.part", f"{BEAUTY}.part.validator"]


def test_a_part_longer_than_the_file(web, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / f"{BEAUTY}.part").write_bytes(web.content + b"and more")
    (folder / f"{BEAUTY}.part.validator").write_text(web.etag)
    assert "416" in fails(folder)
    assert load("beauty", folder).num_users == 5
    assert web.requests[1:] == [None]


def test_gzip_that_is_called_an_encoding_stays_gzip(web, tmp_path):
    web.encoding = "gzip"
    assert load("beauty", tmp_path / "data").num_users == 5
    assert (tmp_path / "data" / BEAUTY).read_bytes() == web.content


def test_checksum(web, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    web.content = movielens(tmp_path / "zip").read_bytes()
    found = hashlib.md5(web.content).hexdigest()
    message = fails(folder, "ml-1m")
    assert "expected md5:c4d9eecfca2ab87c1945afe126590906" in message
    assert f"but got {found}" in message
    assert files(folder) == []
    source = dataclasses.replace(registry.SOURCES["ml-1m"], checksum=f"md5:{found}")
    monkeypatch.setitem(registry.SOURCES, "ml-1m", source)
    data = load("ml-1m", folder)
    assert data.num_users == 5
    assert not [note for note in data.notes if "published" in note]


def test_a_wrong_start_is_not_gone_on_with_for_ever(web, tmp_path, monkeypatch):
    """A damaged part ends in a wrong checksum, and the next download starts from zero."""
    folder = tmp_path / "data"
    web.content = movielens(tmp_path / "zip").read_bytes()
    checksum = f"md5:{hashlib.md5(web.content).hexdigest()}"
    source = dataclasses.replace(registry.SOURCES["ml-1m"], checksum=checksum)
    monkeypatch.setitem(registry.SOURCES, "ml-1m", source)
    web.cut = 100
    fails(folder, "ml-1m")
    (folder / "ml-1m.zip.part").write_bytes(bytes(100))
    web.cut = None
    assert "but got" in fails(folder, "ml-1m")
    assert files(folder) == []
    assert load("ml-1m", folder).num_users == 5


def test_no_space_for_a_download(web, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "move", full)
    assert "No space left on device" in fails(tmp_path / "data")
