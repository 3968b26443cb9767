"""As much of S3 as the cache asks for, in memory: PUT (with If-None-Match), GET, HEAD, DELETE, copies and listings by prefix.

A thread answers each request; a lock makes a PUT one step, as S3 promises.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import fsspec
import pytest


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    objects: dict[str, tuple[bytes, datetime]] = {}
    lock = threading.Lock()
    down = False

    def do_PUT(self) -> None:
        data, key = self._body(), self._key()
        with self.lock:
            if self.headers.get("If-None-Match") == "*" and key in self.objects:
                return self._error(412, "PreconditionFailed", "<Condition>If-None-Match</Condition>")
            if source := self.headers.get("x-amz-copy-source"):
                found = self.objects.get("/" + unquote(source).lstrip("/"))
                if found is None:
                    return self._error(404, "NoSuchKey")
                data = found[0]
            self.objects[key] = (data, datetime.now(UTC))
        etag = hashlib.md5(data).hexdigest()
        return self._answer(
            200, f"<CopyObjectResult><ETag>{etag}</ETag></CopyObjectResult>".encode() if source else b""
        )

    def do_GET(self) -> None:
        if "list-type" in parse_qs(urlsplit(self.path).query):
            return self._list()
        found = self.objects.get(self._key())
        if found is None:
            return self._error(404, "NoSuchKey")
        data, modified = found
        start, stop = 0, len(data)
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last or stop) + 1, stop)
        headers = {
            "Last-Modified": format_datetime(modified, usegmt=True),
            "ETag": f'"{hashlib.md5(data).hexdigest()}"',
        }
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        return self._answer(206 if wanted else 200, data[start:stop], headers)

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        self._body()
        with self.lock:
            self.objects.pop(self._key(), None)
        self._answer(204, b"")

    def do_POST(self) -> None:
        self._body()
        self._error(501, "NotImplemented")

    def _list(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        bucket = self._key().rstrip("/") + "/"
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        keys, prefixes = [], set()
        for key, (data, modified) in sorted(self.objects.items()):
            name = key.removeprefix(bucket)
            if not key.startswith(bucket + prefix):
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.partition(delimiter)[0] + delimiter)
                continue
            stamp = modified.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            keys.append(
                f"<Contents><Key>{escape(name)}</Key><LastModified>{stamp}</LastModified><Size>{len(data)}</Size></Contents>"
            )
        common = "".join(
            f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>" for each in sorted(prefixes)
        )
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(keys)}{common}</ListBucketResult>"
        self._answer(200, text.encode())

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", "") + self.headers.get("Content-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():  # the checksum after the last chunk
            pass
        return data

    def _error(self, code: int, name: str, more: str = "") -> None:
        self._answer(code, f"<Error><Code>{name}</Code><Message>{name}</Message>{more}</Error>".encode())

    def _answer(self, code: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        if self.down:  # a connection that was kept open
            self.close_connection = True
            return
        self.send_response(code)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket of a server of its own, with fsspec told where that is."""
    with serve({}) as port:
        yield reach(port, monkeypatch)


def reach(port: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """Tell fsspec where the server is; the URL of a bucket there."""
    found = {"endpoint_url": f"http://127.0.0.1:{port}", "key": "key", "secret": "secret"}
    once = {"retries": {"max_attempts": 1}}  # else botocore waits for seconds before it says that nobody answers
    monkeypatch.setitem(fsspec.config.conf, "s3", {**found, "config_kwargs": once})
    return f"s3://{secrets.token_hex(8)}"


@contextmanager
def serve(objects: dict[str, tuple[bytes, datetime]], port: int = 0) -> Iterator[int]:
    """A server of a store that holds these, and gets more; its port."""
    server = ThreadingHTTPServer(("127.0.0.1", port), type("Store", (Handler,), {"objects": objects}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.RequestHandlerClass.down = True  # type: ignore[attr-defined]
        server.shutdown()
        server.server_close()
