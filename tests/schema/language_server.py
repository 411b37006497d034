"""A small client of yaml-language-server, the one that editors run behind their YAML support."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

__all__ = ["LanguageServer"]

SECONDS = 20


class LanguageServer:
    """The server as a child process, asked over its standard streams."""

    def __init__(self, program: Path, schema: Path) -> None:
        self._process = subprocess.Popen(
            ["node", str(program), "--stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._heard: queue.Queue[dict[str, Any]] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._asked = 0
        self._files = 0
        self._settings = {
            "schemas": {schema.as_uri(): "*.yaml"},
            "schemaStore": {"enable": False},
            "completion": True,
            "validate": True,
        }
        self._ask("initialize", {"processId": None, "rootUri": None, "capabilities": {}})
        self._tell("initialized", {})
        self._tell("workspace/didChangeConfiguration", {"settings": {"yaml": self._settings}})
        until = time.monotonic() + SECONDS
        while not self.completions("|"):  # it takes up its settings in its own time
            assert time.monotonic() < until, "the server offers nothing"
            time.sleep(0.05)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def completions(self, text: str) -> set[str]:
        """What is offered at the ``|`` in a text."""
        before, _, after = text.partition("|")
        uri = self._open(before + after)
        place = {"line": before.count("\n"), "character": len(before.rpartition("\n")[2])}
        where = {"textDocument": {"uri": uri}, "position": place}
        answer = self._ask("textDocument/completion", where)
        items = answer["items"] if isinstance(answer, dict) else answer or []
        return {item["label"] for item in items}

    def diagnostics(self, text: str) -> list[tuple[str, str]]:
        """What is marked in a text: the marked part, and the message."""
        uri = self._open(text)
        lines = text.split("\n")
        while True:
            message = self._heard.get(timeout=SECONDS)
            said = message.get("params", {})
            is_ours = message.get("method") == "textDocument/publishDiagnostics"
            if is_ours and said["uri"] == uri:
                return [
                    (lines[r["start"]["line"]][r["start"]["character"] : r["end"]["character"]], m)
                    for r, m in ((one["range"], one["message"]) for one in said["diagnostics"])
                ]

    def _open(self, text: str) -> str:
        self._files += 1
        uri = f"file:///document{self._files}.yaml"
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
        self._tell("textDocument/didOpen", {"textDocument": document})
        return uri

    def _ask(self, method: str, params: Any) -> Any:
        self._asked += 1
        self._write({"id": self._asked, "method": method, "params": params})
        while True:
            message = self._heard.get(timeout=SECONDS)
            if message.get("id") == self._asked and "method" not in message:
                assert "error" not in message, message["error"]
                return message["result"]

    def _tell(self, method: str, params: Any) -> None:
        self._write({"method": method, "params": params})

    def _write(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._process.stdin.flush()

    def _listen(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        while line := stream.readline():
            length = int(line.split(b":")[1])
            stream.readline()
            message = json.loads(stream.read(length))
            if "id" in message and "method" in message:
                self._answer(message)
            else:
                self._heard.put(message)

    def _answer(self, request: dict[str, Any]) -> None:
        wants_settings = request["method"] == "workspace/configuration"
        items = request.get("params", {}).get("items", []) if wants_settings else None
        result = items and [
            self._settings if item.get("section") == "yaml" else None for item in items
        ]
        self._write({"id": request["id"], "result": result})
