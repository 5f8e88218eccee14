"""A stand-in for the Hugging Face Hub: what huggingface_hub asks of it, in memory."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading


class HubServer(http.server.ThreadingHTTPServer):
    """Repositories in memory, by name: {file: bytes}; `requests` are those that have come."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = {}
        self.requests = []
        self.cut_after = None  # bytes of one download, after which the line is cut once
        self.moods = {}  # {repository: one of `_in_a_mood`}
        self.sizes = {}  # {file: what it is said to have, where that is not true}

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repository):
        files = self.repositories[repository]
        digests = [f"{name} {_sha1(content)}" for name, content in sorted(files.items())]
        return _sha1("\n".join(digests).encode())


@contextlib.contextmanager
def serving():
    with HubServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()


def _sha1(content):
    return hashlib.sha1(content).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer(with_body=True)

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(("POST", self.path))
        if self._in_a_mood(f"{self.path} {body.decode('latin-1')}"):
            return None
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.server.repositories.setdefault(name, {})
            return self._json({"url": f"{self.server.address}/{name}", "name": name, "id": name})
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if match := re.match(r"/api/models/(.+)/preupload/", self.path):
            files = json.loads(body)["files"]
            return self._json({
                "files": [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in files
                ]
            })  # fmt: skip
        if match := re.match(r"/api/models/(.+)/commit/", self.path):
            stored = self.server.repositories[match[1]]
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    stored[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            commit = self.server.commit(match[1])
            return self._json(
                {"commitUrl": f"{self.server.address}/{match[1]}/commit/{commit}",
                 "commitOid": commit, "success": True}
            )  # fmt: skip
        return self._json({"error": "not known"}, 404)

    def _answer(self, with_body):
        self.server.requests.append((self.command, self.path))
        if self._in_a_mood(self.path):
            return None
        path = self.path.partition("?")[0]
        if match := re.match(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?$", path):
            return self._about(match[1], match[2])
        if match := re.match(r"/api/models/([^/]+/[^/]+)/tree/", path):
            if match[1] not in self.server.repositories:
                return self._missing("RepoNotFound")
            files = self.server.repositories[match[1]]
            return self._json([
                {"type": "file", "path": name, "size": len(content), "oid": _sha1(content)}
                for name, content in sorted(files.items())
            ])  # fmt: skip
        if match := re.match(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$", path):
            if not self._has(match[1], match[2]):
                return self._missing("RevisionNotFound")
            return self._file(match[1], match[3], with_body)
        return self._missing("EntryNotFound")

    def _has(self, name, revision):
        return revision in (None, "main") or revision == self.server.commit(name)

    def _about(self, name, revision):
        if name not in self.server.repositories:
            return self._missing("RepoNotFound")
        if not self._has(name, revision):
            return self._missing("RevisionNotFound")
        files = self.server.repositories[name]
        return self._json({
            "id": name, "modelId": name, "sha": self.server.commit(name), "private": False,
            "tags": [], "downloads": 0, "likes": 0,
            "siblings": [
                {"rfilename": file, "size": self.server.sizes.get(file, len(content))}
                for file, content in sorted(files.items())
            ],
        })  # fmt: skip

    def _in_a_mood(self, asked):
        """Whether the server answers as no Hub does; it has done so then."""
        mood = next((mood for name, mood in self.server.moods.items() if name in asked), None)
        if mood == "gone":
            self.close_connection = True
        elif mood == "gone in the middle":
            self.server.cut_after = 50
            return False
        elif mood == "redirects":
            self.send_response(307)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif mood == "elsewhere":
            body = b"<html>Log in to the hotel's network"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        elif mood == "broken":
            self._json({"error": "broken"}, 500)
        return mood is not None

    def _file(self, repository, file, with_body):
        content = self.server.repositories.get(repository, {}).get(file)
        if content is None:
            return self._missing("EntryNotFound")
        start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
        part = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{_sha1(content)}"')
        self.send_header("X-Repo-Commit", self.server.commit(repository))
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if not with_body:
            return None
        if self.server.cut_after is not None and len(part) > self.server.cut_after:
            part, self.server.cut_after = part[: self.server.cut_after], None
            self.close_connection = True
        self.wfile.write(part)
        return None

    def _missing(self, code):
        body = b'{"error": "not found"}'
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
