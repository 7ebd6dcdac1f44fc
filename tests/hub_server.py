"""A small local server that speaks the Hugging Face Hub's API, for tests: no internet."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories by name: a folder of files, or the reason why it is not given."""

    def __init__(self, port: int):
        self.endpoint = f"http://127.0.0.1:{port}"
        self.folders: dict[str, Path] = {}
        self.refused: dict[str, str] = {}
        """Name -> the server's error code, such as GatedRepo."""
        self.revisions = {"main", COMMIT}
        self.sent: list[str] = []
        """Names of the files whose content was sent."""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(self.path.partition("?")[0]).strip("/")
        if path.startswith("api/models/"):
            name, _, revision = path.removeprefix("api/models/").partition("/revision/")
            place = None
        else:
            name, _, rest = path.partition("/resolve/")
            revision, _, place = rest.partition("/")
        if name in self.hub.refused:
            return self._error(403, self.hub.refused[name])
        if name not in self.hub.folders:
            return self._error(401, "RepoNotFound")
        if revision and revision not in self.hub.revisions:
            return self._error(404, "RevisionNotFound")
        folder = self.hub.folders[name]
        if place is None:
            files = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
            siblings = [{"rfilename": file} for file in sorted(files)]
            return self._send(
                json.dumps({"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings})
            )
        if not (folder / place).is_file():
            return self._error(404, "EntryNotFound")
        if self.command == "GET":
            self.hub.sent.append(place)
        return self._send((folder / place).read_bytes())

    def _send(self, content: str | bytes) -> None:
        data = content.encode() if isinstance(content, str) else content
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serve() -> Iterator[Hub]:
    """Run the server in a thread."""
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub = handler.hub = Hub(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
