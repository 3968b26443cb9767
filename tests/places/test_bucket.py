"""What only buckets have: which stores are refused, and copies on the node."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import drawer
import pytest
from s3_server import reach, serve

from raykd.places import place
from raykd.places.retry import Unavailable
from raykd.places.staging import staged


@pytest.fixture
def staging(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYKD_STAGING", str(tmp_path / "staging"))
    return tmp_path / "staging" / f"raykd-{os.getuid()}"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nothing://bucket/a", "fsspec knows no protocol 'nothing': s3, gs or a folder would be right"),
        ("s3://", "names no bucket: s3://name/folder would be right"),
        ("memory:///", "names no bucket: memory://name/folder would be right"),
        ("ftp://host/a", "FTPFileSystem of fsspec cannot write an object only if there is none"),
        ("forgetful:///a", "Forgetful of fsspec cannot write an object only if there is none"),
    ],
)
def test_a_place_where_nothing_can_be_written_once_is_refused_in_one_line(url, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        place(url)
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("url", "package"), [("s3://bucket/a", "s3fs"), ("gs://bucket/a", "gcsfs")])
def test_a_missing_package_is_named(monkeypatch, url, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, url.partition("://")[0], raising=False)
    with pytest.raises(ValueError, match=f"{url} needs the package {package}: pip install it"):
        place(url)


def test_a_store_that_overwrites_against_its_word_is_found_out_before_anything_is_committed(tmp_path):
    with pytest.raises(ValueError, match=f"careless://{tmp_path} overwrites objects although it is told not to"):
        place(f"careless://{tmp_path}").inner("a").create("name", b"1")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_store_is_tried_once(tmp_path, monkeypatch):
    puts = []
    put = drawer.Drawer.pipe_file

    def counted(self, path, value, mode="overwrite"):
        puts.append(path)
        put(self, path, value, mode)

    monkeypatch.setattr(drawer.Drawer, "pipe_file", counted)
    for inner in "ab":
        place(f"drawer://{tmp_path}").inner(inner).create("name", b"1")
    assert len(puts) == 4


def test_a_store_that_refuses_is_an_error_that_names_the_object(tmp_path, monkeypatch):
    somewhere = place(f"drawer://{tmp_path}")
    somewhere.create("a", b"1")

    def fail(self, path, value, mode="overwrite"):
        raise PermissionError("AccessDenied")

    monkeypatch.setattr(drawer.Drawer, "pipe_file", fail)
    with pytest.raises(OSError, match="cannot commit 1 bytes: AccessDenied") as caught:
        somewhere.create("b", b"1")
    assert caught.value.filename == f"drawer://{tmp_path}/b"
    assert not somewhere.create("a", b"2")  # a conflict that is told as something else


def test_a_store_that_does_not_answer_is_waited_for_and_then_is_one_line(monkeypatch):
    """As s3fs meets it: what botocore raises there is no OSError."""
    objects, answers = {}, []
    with serve(objects) as port:
        somewhere = place(reach(port, monkeypatch))
        somewhere.create("a", b"1")
    monkeypatch.setenv("RAYKD_PATIENCE", "0.3")
    with pytest.raises(
        Unavailable, match=rf"^{somewhere}: EndpointConnectionError: .*, still after \d s and \d+ tries$"
    ):
        somewhere.read("a", limit=1)
    with pytest.raises(Unavailable, match="cannot commit 1 bytes"):
        somewhere.create("b", b"1")

    monkeypatch.setenv("RAYKD_PATIENCE", "60")
    reader = threading.Thread(target=lambda: answers.append(somewhere.read("a", limit=1)))
    reader.start()
    time.sleep(0.5)
    assert answers == []
    with serve(objects, port):
        reader.join(30)
    assert answers == [b"1"]


def library_error(name, *bases):
    return type(name, bases or (Exception,), {"__module__": "botocore.exceptions"})


def test_what_a_library_of_a_store_raises_is_an_os_error_at_once_unless_nobody_answered(tmp_path, monkeypatch):
    somewhere, tries = place(f"drawer://{tmp_path}"), []
    somewhere.create("a", b"1")
    monkeypatch.setenv("RAYKD_PATIENCE", "0.2")

    def failing(error):
        def fail(self, path):
            tries.append(path)
            raise error("in words\nof its own")

        tries.clear()
        monkeypatch.setattr(drawer.Drawer, "cat_file", fail)

    failing(library_error("NoCredentialsError"))
    with pytest.raises(OSError, match=rf"^{somewhere}: NoCredentialsError: in words of its own$"):
        somewhere.read("a", limit=1)
    assert len(tries) == 1
    failing(library_error("ReadTimeoutError", library_error("HTTPClientError")))
    with pytest.raises(Unavailable, match="ReadTimeoutError"):
        somewhere.read("a", limit=1)
    assert len(tries) > 1
    failing(KeyError)  # of code
    with pytest.raises(KeyError):
        somewhere.read("a", limit=1)


def race(url, number, barrier, results):
    somewhere = place(url)
    barrier.wait()
    results.put([name for name in map(str, range(50)) if somewhere.create(name, f"{number}".encode() * 10_000)])


def test_of_several_processes_exactly_one_creates_each_object(tmp_path, processes):
    barrier, results = processes.Barrier(4), processes.SimpleQueue()
    url = f"drawer://{tmp_path}"
    writers = [processes.Process(target=race, args=(url, number, barrier, results)) for number in range(4)]
    for writer in writers:
        writer.start()
    won = sorted(name for _ in writers for name in results.get())
    for writer in writers:
        writer.join()
    assert won == sorted(map(str, range(50)))


def stage(url, folder, barrier, results):
    os.environ["RAYKD_STAGING"], os.environ["DRAWER_LOG"] = f"{folder}/staging", f"{folder}/log"
    somewhere = place(url)
    barrier.wait()
    paths = [somewhere.local(str(number), lambda file: None, limit=10_000) for number in range(8)]
    results.put(sorted(path.read_bytes() for path in paths) == sorted(bytes([n]) * 5000 for n in range(8)))


def test_processes_of_a_node_fetch_each_object_once(tmp_path, processes, staging):
    somewhere = place(f"drawer://{tmp_path}/bucket")
    for number in range(8):
        somewhere.create(str(number), bytes([number]) * 5000)
    barrier, results = processes.Barrier(3), processes.SimpleQueue()
    workers = [processes.Process(target=stage, args=(str(somewhere), tmp_path, barrier, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    assert [results.get() for _ in workers] == [True] * 3
    for worker in workers:
        worker.join()
    assert sorted((tmp_path / "log").read_text().split()) == sorted(map(str, range(8)))
    assert len([path for path in staging.rglob("*") if path.is_file() and path.name != ".lock"]) == 8
    assert list(staging.rglob(".*.tmp")) == []


def test_copies_are_for_their_user_alone(tmp_path, staging):
    somewhere = place(f"drawer://{tmp_path}/bucket")
    somewhere.create("a", b"1")
    path = somewhere.local("a", lambda file: None, limit=1)
    assert path.is_relative_to(staging)
    assert staging.stat().st_mode & 0o777 == 0o700
    staging.chmod(0o755)
    with pytest.raises(ValueError, match="not a folder of yours alone"):
        somewhere.local("a", lambda file: None, limit=1)


def test_a_copy_that_went_bad_is_fetched_again(tmp_path, staging):
    somewhere = place(f"drawer://{tmp_path}/bucket")
    somewhere.create("a", b"good")

    def check(file):
        if file.read_bytes() != b"good":
            raise ValueError("bad")

    path = somewhere.local("a", check, limit=4)
    path.write_bytes(b"bad")
    assert somewhere.local("a", check, limit=4).read_bytes() == b"good"


def test_an_object_that_is_bad_in_the_store_never_gets_a_name_here(tmp_path, staging):
    somewhere = place(f"drawer://{tmp_path}/bucket")
    somewhere.create("a", b"bad")

    def refuse(file):
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        somewhere.local("a", refuse, limit=4)
    assert [path.name for path in staging.rglob("*") if path.is_file()] == [".lock"]


def half(root, started):
    os.environ["RAYKD_STAGING"] = root

    def fetch(file):
        file.write_bytes(b"ha")
        started.set()
        time.sleep(60)

    staged("store://a", fetch, lambda file: None)


def test_a_fetch_that_was_killed_leaves_neither_a_file_nor_a_lock(tmp_path, processes, staging):
    started = processes.Event()
    fetcher = processes.Process(target=half, args=(str(tmp_path / "staging"), started))
    fetcher.start()
    started.wait()
    os.kill(fetcher.pid, signal.SIGKILL)
    fetcher.join()
    path = staged("store://a", lambda file: file.write_bytes(b"half"), lambda file: None)
    assert path.read_bytes() == b"half"


def test_threads_fetch_side_by_side(tmp_path, staging):
    both = threading.Barrier(2, timeout=5)

    def fetch(file: Path) -> None:
        both.wait()
        file.write_bytes(b"1")

    threads = [threading.Thread(target=staged, args=(a, fetch, lambda file: None)) for a in ("store://a", "store://b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not both.broken
