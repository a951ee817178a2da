"""The routes of the Hugging Face hub that a push needs, on this machine: huggingface_hub itself talks to it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

WRITE, READ, WRONG = "hf_" + "W" * 34, "hf_" + "R" * 34, "hf_" + "X" * 34
"""Tokens that may write, may only read, and that nobody knows."""
LARGE = (".safetensors", ".model")


class Repo:
    """Commits, each all files of a state; branches and tags name them."""

    def __init__(self, private=False):
        self.private = private
        self.commits = {}
        self.branches, self.tags = {}, {}
        self.commit("main", {".gitattributes": b"*.safetensors filter=lfs"}, "initial commit")

    def commit(self, branch, files, message):
        digest = hashlib.sha1(repr((sorted(files.items()), message, len(self.commits))).encode()).hexdigest()
        self.commits[digest] = (files, message)
        self.branches[branch] = digest
        return digest

    def files(self, name="main"):
        return self.commits[self.branches.get(name) or self.tags.get(name) or name][0]


class FakeHub:
    """A server with its state.

    Attributes:
        repos: by name.
        lfs: large files by their digest.
        seen: requests counted by route.
        failing: route to the status that the next requests there get.
    """

    def __init__(self):
        self.repos, self.lfs, self.seen, self.failing, self.tokens = {}, {}, Counter(), {}, []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
                status, told, headers = hub.answer(self.command, self.path, body, sent, self.headers)
                data = told if isinstance(told, bytes) else json.dumps(told).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_HEAD = handle_any  # noqa: N815 - http.server looks for these names

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method, path, body, token, headers):
        where = unquote(urlsplit(path).path)
        for pattern, route in _ROUTES:
            if (found := re.fullmatch(f"{method} {pattern}", f"{method} {where}")) and method in _METHODS[route]:
                break
        else:
            return 404, {"error": f"no route {method} {where}"}, {"X-Error-Code": "EntryNotFound"}
        self.seen[route] += 1
        self.tokens.append(token)
        if token == WRONG:  # a server that repeats what it was sent
            said = "Invalid credentials in Authorization header"
            return 401, {"error": f"{said}: Bearer {token}"}, {"X-Error-Message": said}
        if route in self.failing:
            status = self.failing[route]
            return status, {"error": f"failed for {token}"}, {"X-Error-Message": f"failed for {token}"}
        if method in ("POST", "PUT") and route not in ("yaml", "upload") and token != WRITE:
            said = "You don't have the rights to do this"
            return 403, {"error": said}, {"X-Error-Message": said}
        return getattr(self, f"_{route}")(body, headers, *found.groups())

    def _repo(self, name):
        return self.repos.get(name)

    def _info(self, body, headers, name, revision=None):
        if (repo := self._repo(name)) is None:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        revision = revision or "main"
        digest = repo.branches.get(revision) or repo.tags.get(revision) or revision
        siblings = [{"rfilename": file} for file in sorted(repo.files(digest))]
        return 200, {"id": name, "sha": digest, "private": repo.private, "siblings": siblings, "tags": []}, {}

    def _refs(self, body, headers, name):
        repo = self._repo(name)
        kinds = {"branches": ("heads", repo.branches), "tags": ("tags", repo.tags)}
        found = {
            kind: [{"name": one, "ref": f"refs/{ref}/{one}", "targetCommit": digest} for one, digest in all_.items()]
            for kind, (ref, all_) in kinds.items()
        }
        return 200, found | {"converts": []}, {}

    def _create(self, body, headers):
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.repos:
            return 409, {"error": "You already created this model repo", "url": f"{self.url}/{name}"}, {}
        private = asked.get("private", False) or asked.get("visibility") == "private"
        self.repos[name] = Repo(private=private)
        return 200, {"url": f"{self.url}/{name}", "name": name}, {}

    def _branch(self, body, headers, name, branch):
        repo = self._repo(name)
        if branch in repo.branches:
            return 409, {"error": "Reference already exists"}, {}
        repo.branches[branch] = repo.branches["main"]
        return 200, {}, {}

    def _yaml(self, body, headers):
        return 200, {"errors": [], "warnings": []}, {}

    def _preupload(self, body, headers, name, revision):
        files = json.loads(body)["files"]
        kept = self._repo(name).files(revision)
        told = []
        for one in files:
            path, mode = one["path"], "lfs" if one["path"].endswith(LARGE) else "regular"
            oid = None
            if path in kept:
                entry = _entry(path, kept[path])
                oid = entry.get("lfs", entry)["oid"]
            told.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return 200, {"files": told}, {}

    def _batch(self, body, headers, name):
        told = []
        for one in json.loads(body)["objects"]:
            actions = {"upload": {"href": f"{self.url}/lfs/{one['oid']}"}}
            told.append(one if one["oid"] in self.lfs else one | {"actions": actions})
        return 200, {"objects": told, "transfer": "basic"}, {}

    def _upload(self, body, headers, digest):
        if hashlib.sha256(body).hexdigest() != digest:
            return 400, {"error": "another digest"}, {}
        self.lfs[digest] = body
        return 200, {}, {}

    def _tree(self, body, headers, name, revision):
        files = self._repo(name).files(revision)
        return 200, [_entry(path, data) for path, data in sorted(files.items())], {}

    def _resolve(self, body, headers, name, revision, path):
        repo = self._repo(name)
        digest = repo.branches.get(revision) or repo.tags.get(revision) or revision
        files = repo.files(digest)
        if path not in files:
            return 404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"}
        etag = f'"{hashlib.sha256(files[path]).hexdigest()}"'
        about = {"ETag": etag, "X-Repo-Commit": digest, "Content-Length": str(len(files[path]))}
        return 200, files[path], about

    def _commit(self, body, headers, name, revision):
        repo = self._repo(name)
        lines = [json.loads(line) for line in body.splitlines()]
        head = lines[0]["value"]
        if head.get("parentCommit") not in (None, repo.branches[revision]):
            return 412, {"error": "A commit has happened since"}, {"X-Error-Message": "A commit has happened since"}
        files = dict(repo.files(revision))
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.lfs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        digest = repo.commit(revision, files, head["summary"])
        url = f"{self.url}/{name}/commit/{digest}"
        return 200, {"success": True, "commitOid": digest, "commitUrl": url, "pullRequestUrl": None}, {}

    def _tag(self, body, headers, name, revision):
        repo, tag = self._repo(name), json.loads(body)["tag"]
        if tag in repo.tags:
            return 409, {"error": "Tag already exists"}, {"X-Error-Message": "Tag already exists"}
        repo.tags[tag] = repo.branches.get(revision, revision)
        return 200, {}, {}


def _entry(path, data):
    """One file of a tree, by its digest in git and, of a large one, its own."""
    told = {"type": "file", "path": path, "size": len(data)}
    told["oid"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    if path.endswith(LARGE):
        told["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return told


_NAME = r"([^/]+/[^/]+)"
_ROUTES = (
    ("/api/repos/create", "create"),
    ("/api/validate-yaml", "yaml"),
    (rf"/api/models/{_NAME}/refs", "refs"),
    (rf"/api/models/{_NAME}/branch/(.+)", "branch"),
    (rf"/api/models/{_NAME}/tag/(.+)", "tag"),
    (rf"/api/models/{_NAME}/preupload/(.+)", "preupload"),
    (rf"/api/models/{_NAME}/commit/(.+)", "commit"),
    (rf"/api/models/{_NAME}/tree/(.+)", "tree"),
    (rf"/api/models/{_NAME}/revision/(.+)", "info"),
    (rf"/api/models/{_NAME}", "info"),
    (rf"/{_NAME}\.git/info/lfs/objects/batch", "batch"),
    ("/lfs/([0-9a-f]+)", "upload"),
    (rf"/{_NAME}/resolve/([^/]+)/(.+)", "resolve"),
)
_METHODS = {
    "info": ("GET",),
    "tree": ("GET",),
    "refs": ("GET",),
    "upload": ("PUT",),
    "resolve": ("GET", "HEAD"),
} | dict.fromkeys(("create", "yaml", "branch", "tag", "preupload", "commit", "batch"), ("POST",))
