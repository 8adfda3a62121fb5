"""Chromium, driven by its own protocol, for the tests of pages."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """Chromium by its own protocol: open a page, press keys, ask what is there."""

    def __init__(self, home: Path):
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync", "--disable-quic",
                 "--remote-debugging-port=0")  # fmt: skip
        self.process = subprocess.Popen([CHROMIUM, *flags, f"--user-data-dir={home}", "about:blank"],
                                        stderr=subprocess.PIPE, text=True)  # fmt: skip
        url = next(line.split()[-1] for line in self.process.stderr if "DevTools listening" in line)
        host = url.split("/")[2]
        with urllib.request.urlopen(f"http://{host}/json", timeout=20) as pages:
            target = next(one for one in json.load(pages) if one["type"] == "page")
        self.open, self.calls = ExitStack(), itertools.count(1)
        self.socket = self.open.enter_context(connect(target["webSocketDebuggerUrl"], max_size=2**24))
        self.events: list[dict] = []
        self.call("Runtime.enable")
        self.call("Log.enable")

    def call(self, method: str, **parameters) -> dict:
        number = next(self.calls)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(self.socket.recv(timeout=30))).get("id") != number:
            self.events.append(answer)
        assert "result" in answer or "navigated" in str(answer) or "context" in str(answer), answer
        return answer.get("result", {})  # none, where the page goes away meanwhile

    def complaints(self) -> list[str]:
        """Exceptions and errors that the page's console has had, its workers' included."""
        self.ask("0")
        said = [(event["method"], json.dumps(event["params"])) for event in self.events]
        return [
            words
            for method, words in said
            if method == "Runtime.exceptionThrown"
            or (method in ("Log.entryAdded", "Runtime.consoleAPICalled") and '"error"' in words)
        ]

    def ask(self, script: str):
        """What the script evaluates to, its promise's value included."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return answer.get("result", {}).get("value")

    def until(self, script: str) -> None:
        end = time.monotonic() + 30
        while not self.ask(script):
            assert time.monotonic() < end, f"waited in vain for {script}; {self.ask('document.body.innerText')}"
            time.sleep(0.05)

    def key(self, kind: str, key: str, code: str = "") -> None:
        self.call("Input.dispatchKeyEvent", type=kind, key=key, code=code)

    def close(self) -> None:
        self.open.close()
        self.process.terminate()
        self.process.wait()
