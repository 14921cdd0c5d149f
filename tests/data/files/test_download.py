import hashlib
import http.server
import socket
import threading
import time

import pytest

from mixbench.data.files import download as module
from mixbench.data.files.download import DownloadError, download

CONTENT = bytes(range(256)) * 4096  # 1 MiB
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; ``server.cuts`` says after how many bytes the next answers break off."""

    def do_GET(self):
        self.server.asked.append(self.headers.get("Range"))
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if start >= len(CONTENT):
            self.send_error(416)
            return
        resume = start and self.server.resumes
        body = CONTENT[start:] if resume else CONTENT
        self.send_response(206 if resume else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(body)
        self.wfile.write(body[:cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.cuts, server.resumes, server.status = [], [], True, 200
        server.url = f"http://127.0.0.1:{server.server_port}/file"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_file_arrives_whole_and_leaves_no_part(server, tmp_path):
    target = tmp_path / "new" / "below" / "file.zip"
    download(server.url, target, MD5)
    assert target.read_bytes() == CONTENT
    assert not list(target.parent.glob("*.part"))
    assert server.asked == [None]


def test_a_cut_connection_goes_on_where_it_ended(server, tmp_path):
    server.cuts = [1000, 300_000]
    target = tmp_path / "file.zip"
    download(server.url, target, MD5)
    assert target.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=301000-"]


def test_a_server_that_cannot_go_on_sends_everything_again(server, tmp_path):
    server.cuts, server.resumes = [1000], False
    target = tmp_path / "file.zip"
    download(server.url, target, MD5)
    assert target.read_bytes() == CONTENT


def test_what_an_earlier_process_has_left_is_used(server, tmp_path):
    (tmp_path / "file.zip.part").write_bytes(CONTENT[:70_000])
    download(server.url, tmp_path / "file.zip", MD5)
    assert server.asked == ["bytes=70000-"]
    (tmp_path / "again.zip.part").write_bytes(CONTENT)  # killed before it was renamed
    download(server.url, tmp_path / "again.zip", MD5)
    assert (tmp_path / "again.zip").read_bytes() == CONTENT


def test_another_content_is_removed_and_both_checksums_named(server, tmp_path):
    wrong = "0" * 32
    with pytest.raises(DownloadError, match=f"{MD5} in place of {wrong}"):
        download(server.url, tmp_path / "file.zip", wrong)
    assert not list(tmp_path.glob("file*"))


def test_a_download_that_keeps_breaking_off_ends_and_keeps_its_part(server, tmp_path):
    server.cuts = [10] * 50
    with pytest.raises(DownloadError, match=r"ended \d+ bytes early; 40 bytes are kept") as error:
        download(server.url, tmp_path / "file.zip", MD5)
    assert "given again" in str(error.value)
    assert len(server.asked) == module.ATTEMPTS
    assert not (tmp_path / "file.zip").exists()
    assert (tmp_path / "file.zip.part").stat().st_size == 40


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (503, module.ATTEMPTS)])
def test_an_error_of_the_server_is_named_and_only_a_passing_one_tried_again(
    server, tmp_path, status, asked
):
    server.status = status
    with pytest.raises(DownloadError, match=str(status)):
        download(server.url, tmp_path / "file.zip", MD5)
    assert len(server.asked) == asked


def test_without_a_network_nothing_is_tried_twice(tmp_path, monkeypatch):
    asked = []

    def unknown(*args, **kwargs):
        asked.append(args)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    started = time.monotonic()
    with pytest.raises(DownloadError, match="Name or service not known"):
        download("http://example.invalid/file", tmp_path / "file.zip", MD5)
    assert len(asked) == 1
    assert time.monotonic() - started < 5


def test_what_the_disk_cannot_hold_is_not_begun(server, tmp_path, monkeypatch):
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        module.shutil, "disk_usage", lambda _: usage._replace(free=len(CONTENT) - 1)
    )
    with pytest.raises(DownloadError, match=f"{len(CONTENT)} bytes are more than the disk"):
        download(server.url, tmp_path / "file.zip", MD5)
    assert not list(tmp_path.glob("file*"))


def test_two_that_want_the_same_file_fetch_it_once(server, tmp_path):
    target = tmp_path / "file.zip"
    threads = [threading.Thread(target=download, args=(server.url, target, MD5)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match="cannot be written"):
        download("http://127.0.0.1:9/file", tmp_path / "file" / "x.zip", MD5)
