"""Headless Chromium through the DevTools protocol over a pipe: no driver, no port and no further package.

The protocol is one JSON object a message, ended by a zero byte, on file descriptors 3 (to the browser) and 4 (from it):
https://chromedevtools.github.io/devtools-protocol/. Chromium keeps its profile in a folder that is thrown away.
"""

import base64
import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
PATIENCE = 30.0

# Contrast of every visible text against what is painted behind it (WCAG 2.2, success criterion 1.4.3).
LOW_CONTRAST = """
(() => {
  const parse = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const over = (top, below) => [0, 1, 2].map(i => top[3] * top[i] + (1 - top[3]) * below[i]).concat(1);
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = c.slice(0, 3).map(v => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = node => { const layers = [];
    for (let e = node; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]); };
  const bad = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || !e.getClientRects().length) continue;
    const style = getComputedStyle(e), paper = behind(e);
    const ink = over(parse(e.namespaceURI.endsWith('svg') ? style.fill : style.color), paper);
    const [a, b] = [light(ink), light(paper)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) bad.push(`${ratio.toFixed(2)} ${e.tagName} ${e.className} ${e.textContent.slice(0, 40)}`);
  }
  return bad;
})()
"""

# How far the page scrolls sideways, in pixels.
WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@dataclass
class Browser:
    """One tab: what it was told, and what it reported.

    Attributes:
        requests: Addresses that the page asked for, in order, the page itself first.
        complaints: Messages of the console, of the log and of uncaught errors.
    """

    sender: int
    receiver: int
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    _session: str = ""
    _number: int = 0
    _rest: bytes = b""
    _loaded: bool = False

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result; events that come meanwhile are taken in."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self.sender, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])

    def attach(self) -> None:
        """Open an empty tab and listen to everything that it reports."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, page: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a file in a window of the given size and colour scheme, and wait until it is there."""
        self.requests.clear()
        self.complaints.clear()
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded = False
        self.call("Page.navigate", url=page.as_uri())
        while not self._loaded:
            self._receive()

    def evaluate(self, script: str) -> Any:
        """Value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def screenshot(self, *, whole: bool = False) -> bytes:
        """What the window shows as PNG bytes; with ``whole`` the page from top to bottom."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])

    def emulate(self, medium: str) -> None:
        """Show the page as on ``"screen"`` or in ``"print"``."""
        self.call("Emulation.setEmulatedMedia", media=medium)

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self.receiver], [], [], max(deadline - time.monotonic(), 0))
            part = os.read(self.receiver, 1 << 16) if ready else b""
            if not part:
                raise TimeoutError("the browser has gone, or did not answer in time")
            self._rest += part
        text, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Runtime.consoleAPICalled":
                self.complaints.append(str(parameters["args"]))
            case "Runtime.exceptionThrown":
                self.complaints.append(str(parameters["exceptionDetails"]))
            case "Log.entryAdded":
                self.complaints.append(parameters["entry"]["text"])


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium with one tab, ended and cleaned up at the end of the block."""
    to_browser, sender = os.pipe()
    receiver, from_browser = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Descriptors 3 and 4 can only be set by whoever starts the program: a shell's redirections do it without
        # running Python code between fork and exec.
        redirect = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        process = subprocess.Popen(
            ["/bin/bash", "-c", redirect, "chromium", "chromium", *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        try:
            browser = Browser(sender, receiver)
            browser.attach()
            yield browser
        finally:
            # The end of the pipe is the order to quit.
            os.close(sender)
            os.close(receiver)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def outside(browser: Browser, page: Path) -> list[str]:
    """Requests for anything but the page itself and what it carries inside."""
    return [url for url in browser.requests if url != page.as_uri() and not url.startswith("data:")]


def check_page(browser: Browser, page: Path, *, width: int, dark: bool) -> None:
    """Open a page of ours: the browser has no complaint, nothing is asked of anybody, it fits and can be read."""
    browser.open(page, width=width, dark=dark)
    assert browser.complaints == []
    assert outside(browser, page) == []
    assert browser.evaluate(WIDE) == 0, "the page scrolls sideways"
    assert browser.evaluate(LOW_CONTRAST) == []
