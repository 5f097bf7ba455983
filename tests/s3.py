"""A real S3 server for tests (moto, a process of its own), and a proxy that fails as stores do."""

import contextlib
import http.client
import http.server
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.request import urlopen

import boto3

SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
BUCKET = "openwit"


@dataclass
class Proxy:
    """Say which requests fail, and remember all of them."""

    refuse: Callable[[int, str, str], bool] = lambda number, method, path: False
    """Answer this request (its number, method and path) with 503 instead of passing it on?"""
    lose: Callable[[int, str, str], bool] = lambda number, method, path: False
    """Pass this request on, but close the connection instead of answering?"""
    seen: list[tuple[str, str, int]] = field(default_factory=list)
    """(method, path, status) of every request; status 0 for an answer that was lost."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    writing: threading.Lock = field(default_factory=threading.Lock)
    """Held while the store decides a conditional write, which is atomic on S3."""

    def statuses(self) -> Counter[int]:
        """Return how many requests ended in each status."""
        return Counter(status for _, _, status in self.seen)


@dataclass(frozen=True)
class Store:
    """Hold a bucket behind a proxy."""

    port: int
    direct: int  # port of the store itself
    proxy: Proxy

    @property
    def url(self) -> str:
        """Return the bucket as openwit names it."""
        return f"s3://{BUCKET}"

    @property
    def client(self) -> Any:
        """Return a client of another maker, past the proxy."""
        return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.direct}")

    def keys(self, prefix: str = "") -> dict[str, int]:
        """Return the sizes of all objects by key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}

    def read(self, key: str) -> bytes:
        """Return an object, past the proxy."""
        return bytes(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def download(self, prefix: str, folder: Path) -> Path:
        """Copy a folder of the bucket, past the proxy and past our own reader; return the copy."""
        for key in self.keys(f"{prefix}/"):
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.read(key))
        return folder / prefix

    def uploads(self) -> list[str]:
        """Return the keys of multipart uploads that are not completed."""
        found = self.client.list_multipart_uploads(Bucket=BUCKET)
        return [upload["Key"] for upload in found.get("Uploads", [])]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy
    direct: int

    def _pass(self) -> None:
        body = self._body()
        with self.proxy.lock:
            number = len(self.proxy.seen)
            refused = self.proxy.refuse(number, self.command, self.path)
            lost = not refused and self.proxy.lose(number, self.command, self.path)
            self.proxy.seen.append((self.command, self.path, 503 if refused else 0))
        if refused:
            self._answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.direct, timeout=60)
        # moto looks whether there is an object, then writes it: of two writers at once both could be first.
        is_conditional = "If-None-Match" in self.headers
        with contextlib.closing(upstream), self.proxy.writing if is_conditional else contextlib.nullcontext():
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("transfer-encoding", "content-length", "expect", "connection"):
                    upstream.putheader(name, value)
            upstream.putheader("Content-Length", str(len(body)))
            upstream.endheaders(body)
            answer = upstream.getresponse()
            data = answer.read()
        if lost:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        with self.proxy.lock:
            self.proxy.seen[number] = (self.command, self.path, answer.status)
        self._answer(answer.status, answer.getheaders(), data)

    def _body(self) -> bytes:
        """Return the request's body; aws-chunked framing is the store's business, HTTP's own is ours."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response_only(status)
        length = len(data)
        for name, value in headers:
            if name.lower() == "content-length":
                length = int(value) if self.command == "HEAD" else length
            elif name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass  # noqa: N815 - http.server looks for these

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class _Threads(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that were killed are part of the tests."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serve() -> Iterator[Store]:
    """Serve an empty bucket, and point s3:// of this process and of those it starts to it."""
    direct = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(direct)]
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, stdout=quiet, stderr=quiet)
    proxy = Proxy()
    handler = type("Handler", (_Handler,), {"proxy": proxy, "direct": direct})
    front = _Threads(("127.0.0.1", 0), handler)
    threading.Thread(target=front.serve_forever, daemon=True).start()
    store = Store(front.server_address[1], direct, proxy)
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{store.port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    try:
        with mock.patch.dict(os.environ, environment):
            _wait(direct, server)
            store.client.create_bucket(Bucket=BUCKET)
            yield store
    finally:
        front.shutdown()
        front.server_close()
        server.kill()
        server.wait()


def _wait(port: int, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).close()
            return
        except OSError:
            assert server.poll() is None, "moto's server ended"
            assert time.monotonic() < deadline, "moto's server does not start"
            time.sleep(0.1)
