from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.data_helpers import python_folder
from trainer.data import download as downloads
from trainer.data import sources
from trainer.data.download import download
from trainer.errors import DataError


@dataclass
class Server:
    """Serves one archive on the loopback address, or part of it, or an error."""

    url: str = ""
    content: bytes = b""
    announced: int | None = None
    """In the place of the content's length; below 0: no length is announced."""
    status: int = 200
    requests: int = 0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    serving = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            serving.requests += 1
            self.send_response(serving.status)
            length = len(serving.content) if serving.announced is None else serving.announced
            if length >= 0:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(serving.content)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        serving.url = f"http://127.0.0.1:{httpd.server_address[1]}/cifar-10-python.tar.gz"
        yield serving
        httpd.shutdown()
        thread.join()


def tar(*folders: Path, extra: dict[str, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for folder in folders:
            archive.add(folder, folder.name)
        for name, content in (extra or {}).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def official(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """An archive that the server serves and that counts as the official one."""
    folder = python_folder(tmp_path / "made", monkeypatch)
    serve(server, monkeypatch, tar(folder))
    return server.content


def serve(server: Server, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    server.content = content
    md5 = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(downloads, "_archive", lambda layout: (server.url, md5))


def left(folder: Path) -> list[str]:
    """What lies in the data directory, the lock aside."""
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def test_download_and_load(tmp_path: Path, official: bytes) -> None:
    seen: list[tuple[int, int]] = []
    target = tmp_path / "data"
    folder = download("cifar10", target, lambda done, total: seen.append((done, total)))
    assert folder == target / "cifar-10-batches-py"
    assert seen[0] == (0, len(official))
    assert seen[-1] == (len(official), len(official))
    assert seen == sorted(seen)
    assert left(target) == ["cifar-10-batches-py"]
    assert sources.load("cifar10", data_dir=target).kind == "cifar10"


def test_what_is_there_is_not_fetched_again(
    tmp_path: Path, official: bytes, server: Server
) -> None:
    first = download("cifar10", tmp_path)
    assert download("cifar10", tmp_path) == first
    assert server.requests == 1


def test_a_damaged_folder_is_said_and_kept(tmp_path: Path, official: bytes) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "mine").touch()
    with pytest.raises(DataError, match="delete the folder"):
        download("cifar10", tmp_path)
    assert left(folder) == ["mine"]


def test_a_download_that_ends_early(tmp_path: Path, official: bytes, server: Server) -> None:
    server.content, server.announced = official[:1000], len(official)
    with pytest.raises(DataError, match=r"ended after 1,000 of [\d,]+ bytes: run 'cifar-tui data"):
        download("cifar10", tmp_path / "data")
    assert left(tmp_path / "data") == []


def test_a_wrong_checksum(tmp_path: Path, official: bytes, server: Server) -> None:
    server.content = official[:-1] + bytes([official[-1] ^ 1])
    with pytest.raises(DataError, match="official checksum and was deleted"):
        download("cifar10", tmp_path / "data")
    assert left(tmp_path / "data") == []


def test_an_archive_with_other_files(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = python_folder(tmp_path / "made", monkeypatch)
    extra = {"../outside": b"x", "cifar-10-batches-py/../../up": b"x", "/tmp/absolute-cifar": b"x"}
    serve(server, monkeypatch, tar(folder, extra=extra))
    before = sorted(tmp_path.rglob("*"))
    download("cifar10", tmp_path / "data")
    assert left(tmp_path / "data") == ["cifar-10-batches-py"]
    new = {p.name for p in set(tmp_path.rglob("*")) - set(before)}
    assert not new & {"outside", "up"}
    assert not Path("/tmp/absolute-cifar").exists()


@pytest.mark.parametrize("content", [b"no archive at all", tar()], ids=["no archive", "empty"])
def test_an_archive_without_the_files(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    serve(server, monkeypatch, content)
    with pytest.raises(DataError):
        download("cifar10", tmp_path / "data")
    assert left(tmp_path / "data") == []


def test_no_server_names_the_synthetic_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(downloads, "_archive", lambda layout: ("http://127.0.0.1:9/x", ""))
    with pytest.raises(DataError) as raised:
        download("cifar10", tmp_path)
    line = str(raised.value)
    assert "cannot download CIFAR-10" in line
    assert "refused" in line
    assert "--data synthetic" in line
    assert line.isprintable()


def test_an_error_of_the_server(tmp_path: Path, official: bytes, server: Server) -> None:
    server.status = 503
    with pytest.raises(DataError, match="503"):
        download("cifar10", tmp_path)


def test_a_cancelled_download_leaves_nothing(tmp_path: Path, official: bytes) -> None:
    def cancel(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download("cifar10", tmp_path / "data", cancel)
    assert left(tmp_path / "data") == []


def test_what_an_earlier_crash_left_is_removed(tmp_path: Path, official: bytes) -> None:
    stale = tmp_path / ".cifar-10-batches-py.partial"
    stale.mkdir()
    (stale / "archive.partial").write_bytes(b"half")
    download("cifar10", tmp_path)
    assert not stale.exists()


def test_only_one_download_at_a_time(tmp_path: Path, official: bytes) -> None:
    def again(done: int, total: int) -> None:
        with pytest.raises(DataError, match="another download"):
            download("cifar10", tmp_path / "data")

    download("cifar10", tmp_path / "data", again)


def test_no_space_and_no_folder(
    tmp_path: Path, official: bytes, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        download("cifar10", tmp_path / "file" / "data")
    monkeypatch.setattr(downloads, "SPACE_NEEDED", 10**18)
    with pytest.raises(DataError, match="MB left"):
        download("cifar10", tmp_path / "data")
    assert server.requests == 0


def test_only_official_sets(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="synthetic cannot be downloaded"):
        download("synthetic", tmp_path)


@pytest.mark.parametrize("announced", [-1, 10**9])
def test_what_is_longer_than_the_official_archive_is_not_kept(
    tmp_path: Path,
    official: bytes,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    announced: int,
) -> None:
    server.announced, told = announced, list[int]()
    monkeypatch.setattr(downloads, "LONGEST", len(official) - 1)
    with pytest.raises(DataError, match="longer than the official archive") as raised:
        download("cifar10", tmp_path / "data", lambda done, total: told.append(done))
    assert "\n" not in str(raised.value)
    assert all(done < len(official) for done in told)
    assert bool(told) == (announced < 0), "a length that is announced is enough"
    assert left(tmp_path / "data") == []
    monkeypatch.setattr(downloads, "LONGEST", len(official))
    server.announced = -1
    assert download("cifar10", tmp_path / "data").is_dir()


def test_a_set_that_is_there_is_verified_where_nothing_can_be_written(
    tmp_path: Path, official: bytes, server: Server
) -> None:
    first = download("cifar10", tmp_path / "data")
    lock = tmp_path / "data" / ".cifar-10-batches-py.lock"
    lock.unlink()
    lock.mkdir()  # it cannot be opened, not even by root
    assert download("cifar10", tmp_path / "data") == first
    assert server.requests == 1
