"""A headless Chromium that opens files, runs scripts in them and tells what went wrong there.

It is spoken to over two pipes (Chromium's `--remote-debugging-pipe`), so nothing has to be
installed but the browser.
"""

import base64
import contextlib
import fcntl
import functools
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 60
LAUNCH = """
import os, sys
for given, wanted in zip(sys.argv[1:3], (3, 4)):  # the browser reads from 3 and writes to 4
    os.dup2(int(given), wanted)
os.execv(sys.argv[3], sys.argv[3:])
"""


@functools.cache
def find():
    """The browser's path; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab. `problems` are console errors, uncaught exceptions and failed loads so far."""

    def __init__(self, write, read):
        self._write, self._read, self._buffer, self._count = write, read, b"", 0
        self.problems, self.requests, self._loaded = [], [], False
        target = self._send("Target.createTarget", {"url": "about:blank"}, None)["targetId"]
        attach = {"targetId": target, "flatten": True}
        self._session = self._send("Target.attachToTarget", attach, None)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")

    def open(self, path):
        """Opens a file and waits until it is loaded."""
        self._loaded = False
        self._send("Page.navigate", {"url": pathlib.Path(path).resolve().as_uri()})
        while not self._loaded:
            self._handle(self._receive())

    def run(self, script):
        """The value of an expression, or of the promise that it gives."""
        settings = {"expression": script, "awaitPromise": True, "returnByValue": True}
        answer = self._send("Runtime.evaluate", settings)
        assert "exceptionDetails" not in answer, json.dumps(answer["exceptionDetails"], indent=1)
        return answer["result"].get("value")

    def show(self, width, height, dark=False):
        """Sets the size of the window and the colours that the user prefers."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._send("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._send("Emulation.setEmulatedMedia", {"features": [scheme]})

    def press(self, key):
        """Presses and lets go of a key, such as "ArrowRight", "Tab" or " "."""
        codes = {" ": 32, "Tab": 9, "ArrowLeft": 37, "ArrowRight": 39, "Home": 36}
        about = {"key": key, "code": "Space" if key == " " else key}
        about["windowsVirtualKeyCode"] = codes[key]
        text = {"text": " "} if key == " " else {}
        self._send("Input.dispatchKeyEvent", {"type": "keyDown", **about, **text})
        self._send("Input.dispatchKeyEvent", {"type": "keyUp", **about})

    def move(self, x, y):
        """Moves the mouse."""
        self._send("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})

    def picture(self, path, whole=False):
        """Writes a PNG of the window, or of the whole page."""
        settings = {"captureBeyondViewport": whole}
        if whole:
            box = self._send("Page.getLayoutMetrics")["cssContentSize"]
            settings["clip"] = {**box, "x": 0, "y": 0, "scale": 1}
        data = self._send("Page.captureScreenshot", settings)["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))

    def _send(self, method, params=None, session="own"):
        self._count += 1
        message = {"id": self._count, "method": method, "params": params or {}}
        if session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._count:
            self._handle(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _receive(self):
        end = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            more = os.read(self._read, 1 << 20)
            assert more, "the browser has ended"
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _handle(self, event):
        method, params = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(params["exceptionDetails"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.problems.append(params["args"])


@contextlib.contextmanager
def start():
    """A fresh browser with one tab, ended with the block."""
    ours_read, theirs_write = os.pipe()
    theirs_read, ours_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        flags += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_read, theirs_write)]
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, *map(str, high), find(), *flags],
            pass_fds=high,
            stderr=subprocess.DEVNULL,
        )
        for end in (theirs_read, theirs_write, *high):
            os.close(end)
        try:
            yield Page(ours_write, ours_read)
        finally:
            os.close(ours_write)  # it ends when the pipe does
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(ours_read)
