"""A Hugging Face Hub on loopback: as much of its API as huggingface_hub needs for one dataset's files."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

LARGE = (".tar", ".parquet")


class Repository:
    """Files by path, large files by hash, and the requests."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.objects: dict[str, bytes] = {}
        self.commits: list[str] = []
        self.sent: list[str] = []
        self.fail_after: int | None = None
        """Uploads and downloads until the server breaks off, None for never."""
        self.lock = threading.Lock()

    @property
    def sha(self) -> str:
        """Return a stand-in for the newest commit."""
        return hashlib.sha1(repr((self.commits, sorted(self.files))).encode()).hexdigest()

    def breaks(self) -> bool:
        """Return whether this transfer is to break off."""
        with self.lock:
            if self.fail_after is None:
                return False
            self.fail_after -= 1
            return self.fail_after < 0


def oid_of(path: str, data: bytes) -> str:
    """Return git's id of a small file, the SHA-256 of a large file."""
    if path.endswith(LARGE):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answer for the repository of the server."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def answer(self, value: Any, status: int = 200) -> None:
        """Send JSON."""
        self.send(json.dumps(value).encode(), {"Content-Type": "application/json"}, status)

    def send(self, data: bytes, headers: dict[str, str], status: int = 200) -> None:
        """Send bytes."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self) -> bytes:
        """Return the body, of known length or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def do_POST(self) -> None:
        repository, path = self.server.repository, urllib.parse.urlsplit(self.path).path
        data = self.body()
        if path == "/api/repos/create":
            self.answer({"url": f"{self.server.url}/datasets/owner/name"})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            names = [one["path"] for one in json.loads(data)["files"]]
            self.answer({"files": [
                {"path": name, "uploadMode": "lfs" if name.endswith(LARGE) else "regular",
                 "oid": oid_of(name, repository.files[name]) if name in repository.files else None,
                 "shouldIgnore": False}
                for name in names
            ]})  # fmt: skip
        elif path.endswith("/info/lfs/objects/batch"):
            self.answer({"transfer": "basic", "objects": [
                {**one, **({} if one["oid"] in repository.objects else {
                    "actions": {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}})}
                for one in json.loads(data)["objects"]
            ]})  # fmt: skip
        elif "/commit/" in path:
            self.commit([json.loads(line) for line in data.splitlines()])
        elif "/super-squash/" in path:
            repository.commits = ["squashed"]
            self.answer({})
        elif "/paths-info/" in path:
            fields = urllib.parse.parse_qs(data.decode())
            self.answer([one for one in self.tree("") if one["path"] in fields.get("paths", [])])
        else:
            self.answer({"error": path}, 404)

    def commit(self, lines: list[dict[str, Any]]) -> None:
        """Apply a commit."""
        repository = self.server.repository
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repository.commits.append(value["summary"])
            elif line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
                repository.sent.append(value["path"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = repository.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del repository.files[value["path"]]
        url = f"{self.server.url}/datasets/owner/name/commit/{repository.sha}"
        self.answer({"success": True, "commitUrl": url, "commitOid": repository.sha, "pullRequestUrl": None})

    def do_PUT(self) -> None:
        data, repository = self.body(), self.server.repository
        if repository.breaks():
            self.answer({"error": "out of order"}, 403)
            return
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(data).hexdigest() == oid
        repository.objects[oid] = data
        repository.sent.append(oid)
        self.send(b"", {})

    def tree(self, below: str) -> list[dict[str, Any]]:
        """Return the entries of files and folders below a path."""
        files = self.server.repository.files
        entries: list[dict[str, Any]] = [
            {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
            for folder in sorted({name.rpartition("/")[0] for name in files} - {""})
        ]
        for name, data in sorted(files.items()):
            oid = oid_of(name, data)
            large = (
                {"lfs": {"oid": oid, "size": len(data), "pointerSize": 100}} if name.endswith(LARGE) else {}
            )
            entries.append({"type": "file", "path": name, "oid": oid[:40], "size": len(data), **large})
        return [one for one in entries if one["path"].startswith(below)]

    def do_GET(self) -> None:
        repository, url = self.server.repository, urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path)
        if found := re.fullmatch(r"/datasets/owner/name/resolve/[^/]+/(.+)", path):
            self.resolve(found[1])
        elif found := re.fullmatch(r"/api/datasets/owner/name/tree/[^/]+/?(.*)", path):
            entries, folder = self.tree(f"{found[1]}/" if found[1] else ""), found[1]
            if (
                "recursive" not in url.query
                or "recursive=False" in url.query
                or "recursive=false" in url.query
            ):
                entries = [one for one in entries if one["path"].rpartition("/")[0] == folder]
            if entries or not folder:
                self.answer(entries)
            else:
                self.answer({"error": "no such folder"}, 404)
        elif re.fullmatch(r"/api/datasets/owner/name(/revision/[^/]+)?", path):
            names = [{"rfilename": name} for name in sorted(repository.files)]
            self.answer({"id": "owner/name", "sha": repository.sha, "siblings": names, "tags": []})
        else:
            self.answer({"error": path}, 404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def resolve(self, name: str) -> None:
        """Send a file, or a part of it."""
        repository = self.server.repository
        if name not in repository.files:
            self.send(b"", {"X-Error-Code": "EntryNotFound"}, 404)
            return
        data = repository.files[name]
        headers = {
            "X-Repo-Commit": repository.sha,
            "ETag": f'"{oid_of(name, data)}"',
            "Accept-Ranges": "bytes",
        }
        if self.command == "GET" and repository.breaks():
            self.send(b"", {}, 403)
            return
        if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(part[1]), min(int(part[2] or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            self.send(data[start : end + 1], headers, 206)
        else:
            if self.command == "GET":
                repository.sent.append(name)
            self.send(data, headers)


class Server(http.server.ThreadingHTTPServer):
    """Serve one repository, owner/name."""

    repository: Repository
    daemon_threads = True

    @property
    def url(self) -> str:
        """Return the endpoint."""
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def serve() -> Iterator[Server]:
    """Serve an empty repository."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.repository = Repository()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
