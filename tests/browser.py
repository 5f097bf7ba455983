"""Drive headless Chromium over its DevTools protocol, for tests of the HTML reports."""

import base64
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-port=0", "--remote-allow-origins=*", "--window-size=1280,1000", "about:blank",
)  # fmt: skip


class Page:
    """One tab."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._numbers = connection, itertools.count(1)
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result, keeping the events that come before it."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def open(self, place: Path | str) -> None:
        """Load a local file, or a page of a server, and wait for it."""
        self.events.clear()
        url = place.resolve().as_uri() if isinstance(place, Path) else place
        self.call("Page.navigate", url=url)
        self.wait(f"document.readyState === 'complete' && location.protocol === '{url.split(':')[0]}:'")

    def wait(self, condition: str, seconds: float = 60.0) -> None:
        """Wait until JavaScript is true of the page."""
        deadline = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < deadline, f"never true: {condition}"
            time.sleep(0.05)

    def run(self, expression: str) -> Any:
        """Evaluate JavaScript and return its value."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def key(self, key: str, code: int = 0) -> None:
        """Press and release a key."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def resize(self, width: int, height: int = 900) -> None:
        """Make the window so large; below 500 pixels it is a telephone's."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 500)  # fmt: skip

    def barriers(self) -> list[str]:
        """Return axe-core's serious or critical findings in the page; nothing where it is not installed."""
        found = importlib.util.find_spec("axe_core_python")
        if found is None or found.origin is None:
            return []
        axe = Path(found.origin).with_name("axe.min.js").read_text(encoding="utf-8")
        self.run(f"{axe}; globalThis.barriers = null; 0")
        self.run("axe.run(document, { resultTypes: ['violations'] }).then((r) => { barriers = r.violations"
                 ".filter((one) => /serious|critical/.test(one.impact))"
                 ".map((one) => `${one.id}: ${one.nodes.length}, ${one.nodes[0].html}`); }); 0")  # fmt: skip
        self.wait("barriers !== null")
        answer: list[str] = self.run("barriers")
        return answer

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the window."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def problems(self, own: str = "file:") -> list[str]:
        """Return exceptions, dialogs, refused resources, and requests that do not begin with `own`."""
        found = []
        for event in self.events:
            method, given = event.get("method"), event.get("params", {})
            if method in ("Runtime.exceptionThrown", "Page.javascriptDialogOpening", "Log.entryAdded"):
                found.append(f"{method}: {json.dumps(given)[:300]}")
            if method == "Network.requestWillBeSent":
                url = given["request"]["url"]
                if not url.startswith((own, "data:", "blob:")):
                    found.append(f"request to {url}")
        return found


@contextmanager
def chromium() -> Iterator[Page]:
    """Start Chromium with an empty profile; skips the test where it or websocket-client is missing."""
    websocket = pytest.importorskip("websocket")
    binary = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not binary:
        pytest.skip("needs Chromium")
    profile = Path(tempfile.mkdtemp(prefix="openwit-chromium-"))
    process = subprocess.Popen([binary, *_FLAGS, f"--user-data-dir={profile}"], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while (
            not (profile / "DevToolsActivePort").exists() or not (profile / "DevToolsActivePort").read_text()
        ):
            assert time.monotonic() < deadline and process.poll() is None, "Chromium did not start"
            time.sleep(0.1)
        port = (profile / "DevToolsActivePort").read_text().split()[0]
        import urllib.request

        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            target = next(one for one in json.load(answer) if one["type"] == "page")
        connection = websocket.create_connection(target["webSocketDebuggerUrl"], timeout=60)
        try:
            yield Page(connection)
        finally:
            connection.close()
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(profile, ignore_errors=True)
