"""A page of Debian's chromium, driven over its DevTools protocol (websocket-client comes with JupyterLab)."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import websocket


def chromium() -> str | None:
    """The browser's program, None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Page:
    """One page in a browser of its own; a context.

    Args:
        profile: an empty folder for the browser.
        width, height: of the window, in CSS pixels.
    """

    def __init__(self, profile: Path, width: int = 1440, height: int = 900):
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "about:blank"]
        self.process = subprocess.Popen(
            [chromium(), f"--user-data-dir={profile}", f"--window-size={width},{height}", *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            port = wait_for(lambda: (profile / "DevToolsActivePort").read_text().split()[0])
            targets = wait_for(lambda: _pages(port))
            # The DevTools refuse a foreign origin.
            self.socket = websocket.create_connection(
                targets[0]["webSocketDebuggerUrl"], timeout=120, suppress_origin=True
            )
        except BaseException:
            self.process.kill()
            raise
        self.numbers = itertools.count(1)
        self.resize(width, height)

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(20)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def resize(self, width: int, height: int) -> None:
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        wait_for(lambda: self.value("document.readyState") == "complete")

    def value(self, expression: str) -> Any:
        """What JavaScript makes of ``expression``; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_until(self, expression: str, seconds: float = 60) -> Any:
        """Until JavaScript's ``expression`` is true."""
        return wait_for(lambda: self.value(expression), seconds, expression)

    def dark(self, dark: bool = True) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def enter(self, *, shift: bool = False) -> None:
        """Press Enter."""
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", text="\r", **key)
        self.call("Input.dispatchKeyEvent", type="keyUp", **key)

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, path: Path) -> None:
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def pdf(self, path: Path) -> None:
        answer = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        Path(path).write_bytes(base64.b64decode(answer["data"]))


def wait_for(something, seconds: float = 60, what: str = ""):
    """Until ``something()`` is true; what it raises counts as not yet."""
    end = time.monotonic() + seconds
    error: Exception | None = None
    while time.monotonic() < end:
        try:
            if value := something():
                return value
        except (OSError, RuntimeError, IndexError, ValueError) as found:
            error = found
        time.sleep(0.1)
    raise TimeoutError(f"waited {seconds:g} s for {what or something}: {error}")


def _pages(port: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
        return [target for target in json.load(answer) if target["type"] == "page"]
