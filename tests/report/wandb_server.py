"""A loopback stand-in for the Weights & Biases server: what runs, sync and Reports ask for."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "tester"
VIEWER = {
    "id": "VXNlcjox", "entity": ENTITY, "username": ENTITY, "email": "tester@example.org",
    "flags": "{}", "admin": False, "teams": {"edges": []},
}  # fmt: skip


class Server(ThreadingHTTPServer):
    """Keeps what it is sent.

    Attributes:
        accepts_keys: whether it takes the key that comes with a request.
        runs: name of a run -> display name, group, config and summary as last sent.
        history: name of a run -> rows.
        reports: what `upsertView` was given, in order.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.accepts_keys = True
        self.projects: set[str] = set()
        self.runs: dict[str, dict[str, Any]] = {}
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.reports: list[dict[str, Any]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients hang up as they please."""

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The `data` of a GraphQL response."""
        if "upsertBucket" in query:
            return {"upsertBucket": {"bucket": self._run(variables), "inserted": True}}
        if "RunResumeStatus" in query:
            return {"model": self._resumed(variables["name"])}
        if "createRunFiles" in query:
            files = [
                {"name": name, "uploadUrl": f"{self.address}/upload/{name}"}
                for name in variables["files"]
            ]
            return {"createRunFiles": {"runID": "cnVu", "uploadHeaders": [], "files": files}}
        if "ProjectInternalId" in query:
            known = variables["projectName"] in self.projects
            return {"project": {"id": "p", "internalId": "UHJvamVjdDox"} if known else None}
        if "upsertView" in query:
            self.reports.append(variables)
            view = {key: variables[key] for key in ("type", "name", "displayName", "description")}
            view |= {"id": "VmlldzoxMjM=", "spec": variables["spec"]}
            view["project"] = _project(variables["projectName"])
            return {"upsertView": {"view": view, "inserted": True}}
        if "models(" in query:
            edges = [{"node": _project(name), "cursor": ""} for name in sorted(self.projects)]
            return {
                "models": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
            }
        if "viewer" in query:
            return {"viewer": VIEWER}
        return {}

    def _resumed(self, name: str) -> dict[str, Any] | None:
        """What a run that goes on has to know: how many lines are here, and the last one."""
        rows = self.history.get(name)
        if not rows:
            return None
        bucket = {
            "name": name, "displayName": name, "summaryMetrics": "{}", "config": "{}",
            "logLineCount": 0, "historyLineCount": len(rows), "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(rows[-1])]), "eventsTail": "[]",
            "tags": None, "wandbConfig": json.dumps({"t": 1}),
        }  # fmt: skip
        return {**_project("qbench"), "entity": {"id": "e", "name": ENTITY}, "bucket": bucket}

    def _run(self, variables: dict[str, Any]) -> dict[str, Any]:
        name, project = variables["name"], variables["project"]
        self.projects.add(project)
        run = self.runs.setdefault(name, {})
        run |= {key: value for key, value in variables.items() if value is not None}
        owner = {**_project(project), "entity": {"id": "e", "name": ENTITY}}
        return {"id": "cnVu", "name": name, "displayName": name, "project": owner}


class Handler(BaseHTTPRequestHandler):
    """HTTP to `Server.answer`, history and uploads."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self._body()
        if not self.server.accepts_keys:
            self._reply({"errors": [{"message": "user is not logged in"}]}, 401)
        elif self.path == "/graphql":
            sent = json.loads(body)
            data = self.server.answer(sent["query"], sent.get("variables") or {})
            self._reply({"data": data})
        else:
            if self.path.endswith("/file_stream"):
                self._keep_history(json.loads(body))
            self._reply({})

    def do_PUT(self) -> None:
        self._body()
        self._reply({})

    def do_GET(self) -> None:
        self._reply({})

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _keep_history(self, sent: dict[str, Any]) -> None:
        run = self.path.split("/")[-2]
        sent_rows = (sent.get("files") or {}).get("wandb-history.jsonl")
        if sent_rows:
            rows = self.server.history.setdefault(run, [])
            rows[sent_rows["offset"] :] = map(json.loads, sent_rows["content"])

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            return gzip.decompress(body)
        return body

    def _reply(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving() -> Iterator[Server]:
    """A server on a free port that stops with the block."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _project(name: str) -> dict[str, Any]:
    return {
        "id": "p", "name": name, "entityName": ENTITY, "createdAt": "2026-01-01T00:00:00",
        "isBenchmark": False, "user": None,
    }  # fmt: skip
