"""Downloads and extraction: whole and verified, or nothing."""

from __future__ import annotations

import hashlib
import io
import os
import random
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from modeflow.data.download import download, extract
from modeflow.errors import DataError

CONTENT = random.Random(0).randbytes(3_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    served = 0

    def do_GET(self):
        type(self).served += 1
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1_000_000] if self.path == "/cut" else CONTENT)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def test_a_right_checksum_is_kept_and_not_fetched_twice(server, tmp_path):
    path = download(f"{server}/file", tmp_path / "new/f.bin", MD5)
    assert path.read_bytes() == CONTENT
    before = _Handler.served
    download(f"{server}/file", path, MD5.upper())
    assert _Handler.served == before
    path.write_bytes(b"damaged on disk")
    download(f"{server}/file", path, MD5)
    assert path.read_bytes() == CONTENT and _Handler.served == before + 1


@pytest.mark.parametrize(
    ("page", "md5", "words"),
    [
        ("file", "0" * 32, "has checksum .* expected 0000"),
        ("cut", MD5, "broke off after 1000000 of 3000000 bytes"),
        ("cut", None, "broke off after 1000000 of 3000000 bytes"),
        ("missing", MD5, "answers 404"),
    ],
)
def test_a_bad_transfer_leaves_the_old_file_and_nothing_else(server, tmp_path, page, md5, words):
    old = tmp_path / "f.bin"
    old.write_bytes(b"old")
    with pytest.raises(DataError, match=words) as caught:
        download(f"{server}/{page}", old, md5)
    assert "\n" not in str(caught.value)
    assert old.read_bytes() == b"old" and os.listdir(tmp_path) == ["f.bin"]


def test_unreachable_and_odd_addresses(tmp_path):
    with pytest.raises(DataError, match=r"cannot reach .*put it at"):
        download("http://127.0.0.1:9/x", tmp_path / "f", timeout=2)
    with pytest.raises(DataError, match="http, https or file"):
        download("ftp://example.org/x", tmp_path / "f")
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    assert download(source.as_uri(), tmp_path / "copy", MD5).read_bytes() == CONTENT


def archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def test_extract_takes_only_what_is_asked(tmp_path):
    file = archive(tmp_path / "a.tar.gz", {"data/x/one.npy": b"1", "data/y/two.npy": b"2"})
    (done,) = extract(file, {"data/y/two.npy": "y/two.npy"}, tmp_path / "out")
    assert done.read_bytes() == b"2"
    assert sorted(p.name for p in (tmp_path / "out").rglob("*")) == ["two.npy", "y"]


def test_extract_refuses_bad_archives(tmp_path):
    link = archive(tmp_path / "link.tar.gz", {"data/x": None})
    with pytest.raises(DataError, match="not a plain file"):
        extract(link, {"data/x": "x"}, tmp_path / "out")
    good = archive(tmp_path / "good.tar.gz", {"data/x": CONTENT})
    with pytest.raises(DataError, match="does not hold data/y"):
        extract(good, {"data/y": "y"}, tmp_path / "out")
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(good.read_bytes()[:2_000_000])
    with pytest.raises(DataError, match="cannot be extracted"):
        extract(cut, {"data/x": "x"}, tmp_path / "out")
    outside = archive(tmp_path / "outside.tar.gz", {"../escape": b"1"})
    with pytest.raises(DataError, match="cannot be extracted"):
        extract(outside, {"../escape": "escape"}, tmp_path / "out")
    assert not (tmp_path / "escape").exists() and not any((tmp_path / "out").rglob("*"))
