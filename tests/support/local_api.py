"""A server on this machine that speaks as figshare and the Hugging Face hub do, faults included."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" * 6 + "c0ff"
BLOCK = 8192  # bytes the server sends at once


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@dataclass
class Fault:
    """What goes wrong with one download: a status, or a body that ends, stalls or differs."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None  # bytes of this answer, then the connection breaks
    stall_at: int | None = None  # bytes, then silence until the client has gone
    content: bytes | None = None  # sent instead of the file
    ignore_range: bool = False
    trickle: float | None = None  # s between single bytes
    at: Callable[[int], None] | None = None  # called with the bytes sent so far, before each block


@dataclass
class Request:
    """One request as the server saw it."""

    path: str
    range: str | None
    if_range: str | None
    status: int = 0
    sent: int = 0


class LocalApi:
    """One item with its files, served at ``figshare`` (API base) and ``hub``.

    ``files``: content by path; ``faults[path]``: what befalls the next downloads, one after another.
    """

    def __init__(self, files: dict[str, bytes], item: str = "31812499", version: int = 1) -> None:
        self.files = dict(files)
        self.item = item
        self.version = version
        self.faults: dict[str, list[Fault]] = {}
        self.list_faults: list[Fault] = []
        self.requests: list[Request] = []
        self.article: dict[str, Any] = {}
        self.entries: dict[str, dict[str, Any]] = {}  # what the file list says otherwise of a path
        self.hub_page = 1000
        self._ids = {path: str(9000 + number) for number, path in enumerate(files)}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self._server.server_port}"
        self.figshare = f"{self.base}/v2"
        self.hub = self.base

    def id(self, path: str) -> str:
        return self._ids.setdefault(path, str(9000 + len(self._ids)))

    def downloads(self, path: str) -> list[Request]:
        """The requests for the content of one file."""
        ends = (f"/ndownloader/{self.id(path)}", f"/v2/file/download/{self.id(path)}")
        return [
            request
            for request in self.requests
            if request.path.endswith(ends) or request.path.endswith(f"/resolve/{COMMIT}/{path}")
        ]

    def source(self, **more: Any) -> dict[str, Any]:
        """The item as an entry of the table of sources."""
        entry = {"api": "figshare", "address": self.figshare, "item": self.item, "version": self.version}
        return {**entry, **more}

    def table(self, path: Path, **more: Any) -> Path:
        """Write a table of sources (JSON is YAML) with this item as ``test-item``."""
        path.write_text(json.dumps({"sources": {"test-item": self.source(**more)}}))
        return path

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop_listening(self) -> None:
        """Refuse further connections; those under way go on."""
        self._server.shutdown()
        self._server.server_close()

    stop = stop_listening

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[Any, dict[str, str]] | None:
        """The JSON document at an address of the APIs, with headers; None where there is none."""
        article = f"/v2/articles/{self.item}/versions/{self.version}"
        if path == article:
            return self._article(), {}
        if path == f"{article}/files":
            page, size = int(query.get("page", ["1"])[0]), int(query.get("page_size", ["10"])[0])
            return self._list()[(page - 1) * size : page * size], {}
        hub = "/api/datasets/owner/data"
        if path.startswith(f"{hub}/revision/"):
            return {"sha": COMMIT, "cardData": {"license": "cc-by-nc-nd-4.0"}}, {}
        if path == f"{hub}/tree/{COMMIT}":
            start = int(query.get("cursor", ["0"])[0])
            following = start + self.hub_page
            link = f'<{self.base}{hub}/tree/{COMMIT}?recursive=true&cursor={following}>; rel="next"'
            entries = self._tree()
            return entries[start:following], {"Link": link} if following < len(entries) else {}
        return None

    def content(self, path: str) -> str | None:
        """The file whose content lies at an address."""
        match = re.search(r"/ndownloader/(\d+)$|^/v2/file/download/(\d+)$", path)
        if match:
            number = match[1] or match[2]
            return next((name for name in self.files if self.id(name) == number), None)
        name = unquote(path.removeprefix(f"/datasets/owner/data/resolve/{COMMIT}/"))
        return name if name in self.files else None

    def _article(self) -> dict[str, Any]:
        folders = {self.id(path): str(Path(path).parent) for path in self.files if "/" in path}
        return {
            "id": int(self.item),
            "version": self.version,
            "title": "Test item",
            "doi": f"10.1234/TEST.{self.item}.v{self.version}",
            "citation": "Somebody (2026): Test item. Dataset.",
            "license": {"value": 1, "name": "CC BY 4.0", "url": "https://example.org/by/4.0/"},
            "figshare_url": "https://example.org/item",
            "size": sum(map(len, self.files.values())),
            "folder_structure": folders,
            "files": self._list()[:10],
            **self.article,
        }

    def _list(self) -> list[dict[str, Any]]:
        return [
            {
                "id": int(self.id(path)),
                "name": Path(path).name,
                "size": len(content),
                "is_link_only": False,
                "download_url": f"{self.base}/ndownloader/{self.id(path)}",
                "supplied_md5": "",
                "computed_md5": md5(content),
                "mimetype": "text/plain",
                **self.entries.get(path, {}),
            }
            for path, content in self.files.items()
        ]

    def _tree(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = [{"type": "directory", "path": "folder", "oid": "0", "size": 0}]
        for path, content in self.files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": blob}
            if len(content) > 10_000:
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
            entries.append(entry)
        return entries


@contextmanager
def serve(files: dict[str, bytes], **options: Any) -> Iterator[LocalApi]:
    api = LocalApi(files, **options)
    api.start()
    try:
        yield api
    finally:
        api.stop()


def _handler(api: LocalApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            request = Request(self.path, self.headers.get("Range"), self.headers.get("If-Range"))
            api.requests.append(request)
            with suppress(BrokenPipeError, ConnectionResetError):
                name = api.content(parts.path)
                if name is not None:
                    faults = api.faults.get(name, [])
                    self._send_file(request, name, faults.pop(0) if faults else Fault())
                else:
                    self._send_json(request, parts.path, parse_qs(parts.query))

        def _head(self, request: Request, status: int, headers: dict[str, str]) -> None:
            request.status = status
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()

        def _send_json(self, request: Request, path: str, query: dict[str, list[str]]) -> None:
            fault = api.list_faults.pop(0) if api.list_faults else Fault()
            found = api.answer(path, query)
            status = fault.status if fault.status != 200 else 200 if found else 404
            body = json.dumps(found[0] if found else {"message": "not found"}).encode()
            if fault.content is not None:
                body = fault.content
            headers = {"Content-Length": str(len(body)), **(found[1] if found else {}), **fault.headers}
            self._head(request, status, headers)
            self.wfile.write(body)

        def _send_file(self, request: Request, name: str, fault: Fault) -> None:
            content = api.files[name] if fault.content is None else fault.content
            if fault.status != 200:
                self._head(request, fault.status, {"Content-Length": "0", **fault.headers})
                return
            etag = f'"{md5(content)}"'
            start, status = 0, 200
            headers = {"ETag": etag, "Accept-Ranges": "bytes"}
            asked = re.fullmatch(r"bytes=(\d+)-", request.range or "")
            if asked and not fault.ignore_range and request.if_range in (None, etag):
                start, status = int(asked[1]), 206
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                if start >= len(content):
                    self._head(request, 416, {"Content-Length": "0"})
                    return
            body = content[start:]
            self._head(request, status, {**headers, "Content-Length": str(len(body)), **fault.headers})
            self._send_body(request, body, fault)

        def _send_body(self, request: Request, body: bytes, fault: Fault) -> None:
            end = min(
                (stop for stop in (fault.cut_at, fault.stall_at) if stop is not None), default=len(body)
            )
            step = 1 if fault.trickle else BLOCK
            while request.sent < end:
                if fault.at:
                    fault.at(request.sent)
                block = body[request.sent : min(end, request.sent + step)]
                self.wfile.write(block)
                request.sent += len(block)
                if fault.trickle:
                    time.sleep(fault.trickle)
            if fault.stall_at is not None:
                self.rfile.read(1)  # returns when the client hangs up
            if fault.cut_at is not None or fault.stall_at is not None:
                self.close_connection = True

    return Handler
