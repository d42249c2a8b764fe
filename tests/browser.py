# SPDX-License-Identifier: Apache-2.0
"""Headless Chromium for tests of pages, driven over a pipe by the DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = """--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run
--disable-background-networking --hide-scrollbars --remote-debugging-pipe""".split()
# Name, key code and text of the keys that tests press.
KEYS = {
    "Tab": (9, ""),
    "Enter": (13, "\r"),
    " ": (32, " "),
    "ArrowUp": (38, ""),
    "ArrowDown": (40, ""),
    "ArrowLeft": (37, ""),
    "ArrowRight": (39, ""),
    "Home": (36, ""),
}
# The browser reads commands from descriptor 3 and writes answers to 4.
MOVED = """
import fcntl, os, sys
high = [fcntl.fcntl(int(given), fcntl.F_DUPFD, 10) for given in sys.argv[1:3]]
os.dup2(high[0], 3)
os.dup2(high[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
PATIENCE = 60.0  # seconds for one answer, on a machine that does other work too


def found() -> str | None:
    """Return the path of a browser; PYREL_CHROMIUM names one, else it is looked for."""
    given = os.environ.get("PYREL_CHROMIUM")
    return given or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A browser with one page."""

    def __init__(self, path: str) -> None:
        self._profile = tempfile.mkdtemp(prefix="pyrel-browser-")
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        command = [path, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        moved = [sys.executable, "-c", MOVED, str(to_browser), str(from_browser), *command]
        self._process = subprocess.Popen(
            moved,
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._number, self._session = b"", 0, None
        self.faults: list[str] = []  # errors and warnings on the console
        self._events: list[str] = []
        os.set_blocking(self._in, False)
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Accessibility"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End the browser, and remove what it wrote."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            assert self._process.poll() is None, "the browser has ended"
            assert time.monotonic() < end, "the browser does not answer"
            try:
                self._buffer += os.read(self._in, 2**20)
            except BlockingIOError:
                time.sleep(0.005)
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(raw)
        self._notice(message)
        return dict(message)

    def _notice(self, message: dict[str, Any]) -> None:
        method, told = message.get("method", ""), message.get("params", {})
        self._events.append(method)
        if method == "Runtime.exceptionThrown":
            self.faults.append(str(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] in {"error", "warning"}:
            self.faults.append(str(told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in {"error", "warning"}:
            self.faults.append(told["entry"]["text"])

    def open(self, path: Path, width: int, height: int = 900, script: bool = True) -> None:
        """Load a page in a window of a size in CSS pixels, with or without its script."""
        self.faults.clear()
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=phone)  # fmt: skip
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self._events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while "Page.loadEventFired" not in self._events:
            self._next()

    def run(self, expression: str) -> Any:
        """Return what a JavaScript expression comes to."""
        made = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in made, made["exceptionDetails"]
        return made["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, as a person does."""
        code, text = KEYS[key]
        common = {"key": key, "code": "Space" if key == " " else key,
                  "windowsVirtualKeyCode": code}  # fmt: skip
        self.call(
            "Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {})
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector: str) -> None:
        """Scroll to the first element of a selector and click into its middle."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def accessible(self) -> list[dict[str, str]]:
        """Return role and name of all that a screen reader is told."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            {"role": str(n["role"].get("value")), "name": str(n.get("name", {}).get("value", ""))}
            for n in nodes
            if not n["ignored"]
        ]

    def picture(self, path: Path, whole: bool = True) -> None:
        """Write a picture of the page as PNG."""
        made = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(made["data"]))
