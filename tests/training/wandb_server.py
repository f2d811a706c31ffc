"""What `wandb sync` talks to, on this machine: the few answers it needs, and what a W&B server would then hold of each run.

History is kept as W&B keeps it: each line where its offset says, and a run that is there already is resumed behind its last line.
"""

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Held:
    """What the server holds of one run."""

    lines: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """`(trainer/global_step, value)` of every line that has the metric, in the server's order."""
        lines = (self.lines[number] for number in sorted(self.lines))
        return [(line["trainer/global_step"], line[metric]) for line in lines if metric in line]


class Server(ThreadingHTTPServer):
    """Takes runs in; `runs` by their ids."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.runs: dict[str, Held] = {}
        self.address = f"http://127.0.0.1:{self.server_port}"

    def sync(self, folders: list[Path], home: Path) -> None:
        """`wandb sync`, as a user runs it, in a process of its own."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        environment |= {"WANDB_BASE_URL": self.address, "WANDB_API_KEY": "a" * 40, "WANDB_ERROR_REPORTING": "false", "HOME": str(home)}
        command = [sys.executable, "-m", "wandb", "sync", *map(str, folders)]
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("Finished syncing") == len(folders), done.stderr

    def graphql(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """The data of an answer."""
        place = {"id": "project", "name": given.get("project"), "entity": {"id": "entity", "name": "someone"}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.address}/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}
        if operation == "RunResumeStatus":
            return {"model": place | {"bucket": self.resumed(given["name"])}}
        if operation == "UpsertBucket":
            held = self.runs.setdefault(given["name"], Held())
            bucket = {"id": given["name"], "name": given["name"], "project": place, "historyLineCount": len(held.lines)}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        return {"viewer": {"id": "viewer", "entity": "someone", "username": "someone", "flags": "{}", "teams": {"edges": []}}}

    def resumed(self, name: str) -> dict[str, Any] | None:
        """Where a run that is there already goes on."""
        if name not in self.runs:
            return None
        held = self.runs[name]
        tail = [json.dumps(held.lines[max(held.lines)])] if held.lines else []
        counts = {"logLineCount": 0, "historyLineCount": len(held.lines), "eventsLineCount": 0}
        tails = {"historyTail": json.dumps(tail), "eventsTail": "[]", "summaryMetrics": json.dumps(held.summary)}
        return {"id": name, "name": name, "config": "{}", "tags": [], "wandbConfig": '{"t": 1}', **counts, **tails}

    def take(self, name: str, files: dict[str, dict[str, Any]]) -> None:
        """Lines of a run's files, each where its offset says."""
        held = self.runs[name]
        for file, chunk in files.items():
            lines = {chunk["offset"] + number: json.loads(line) for number, line in enumerate(chunk["content"])}
            if file == "wandb-history.jsonl":
                held.lines |= lines
            elif file == "wandb-summary.json":
                held.summary = lines[max(lines)]


class Answers(BaseHTTPRequestHandler):
    """HTTP around it."""

    server: Server

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content)
        if self.path.endswith("/graphql"):
            return self.answer({"data": self.server.graphql(body["operationName"], body.get("variables") or {})})
        if self.path.endswith("/file_stream"):
            self.server.take(self.path.split("/")[-2], body.get("files") or {})
        return self.answer({})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({})

    def answer(self, found: dict[str, Any]) -> None:
        content = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    """A server for as long as a test takes."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
