"""A headless Chromium, driven over two pipes by its own protocol (DevTools): no port, no driver.

Commands and answers are JSON, each ended by a zero byte; descriptor 3 is the browser's ear and 4
its mouth. Whatever a page says meanwhile (requests, console, errors) is kept in ``said``.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from types import TracebackType
from typing import cast

Json = dict[str, object]

PROGRAM = "chromium"

# The pipes must lie at 3 and 4, wherever they were before.
_LAUNCH = (
    "import os, sys; ear, mouth = map(int, sys.argv[1:3]); os.dup2(ear, 3); os.dup2(mouth, 4);"
    " os.closerange(5, 64); os.execvp(sys.argv[3], sys.argv[3:])"
)
_OPTIONS = (
    "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-dev-shm-usage", "--disable-extensions",
    "--disable-component-update", "--hide-scrollbars", "--force-device-scale-factor=1",
)  # fmt: skip
_KEYS = {
    "ArrowLeft": 37, "ArrowRight": 39, "ArrowUp": 38, "ArrowDown": 40, "Home": 36, "End": 35,
    "PageUp": 33, "PageDown": 34, "Tab": 9,
}  # fmt: skip


class Browser:
    """A running Chromium with one page; a context manager."""

    def __init__(self, directory: Path) -> None:
        ear, self._to = _high_pipe()
        self._from, mouth = _high_pipe()
        self.said: list[tuple[str, Json]] = []
        self._number = 0
        self._rest = b""
        self._session = ""
        with (directory / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-I", "-S", "-c", _LAUNCH, str(ear), str(mouth),
                    PROGRAM, *_OPTIONS, f"--user-data-dir={directory / 'profile'}", "about:blank",
                ],
                pass_fds=(ear, mouth), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        os.close(ear)
        os.close(mouth)

    def __enter__(self) -> Browser:
        targets = cast("list[Json]", self.call("Target.getTargets")["targetInfos"])
        page = next(one for one in targets if one["type"] == "page")
        told = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = str(told["sessionId"])
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(1600, 1200)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._to)  # it ends when nobody can speak to it any more
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from)

    def call(self, method: str, **parameters: object) -> Json:
        """Ask for something; the answer."""
        self._number = number = self._number + 1
        asked: Json = {"id": number, "method": method, "params": parameters}
        if self._session:
            asked["sessionId"] = self._session
        os.write(self._to, json.dumps(asked).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == number:
                if "error" in told:
                    raise AssertionError(f"{method}: {told['error']}")
                return cast("Json", told["result"])

    def open(self, path: Path) -> None:
        """Load a file, and wait until it is there."""
        self.said.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(name == "Page.loadEventFired" for name, _ in self.said):
            self._next()

    def ask(self, expression: str) -> object:
        """What an expression is in the page."""
        told = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in told:
            raise AssertionError(f"{expression}: {told['exceptionDetails']}")
        return cast("Json", told["result"]).get("value")

    def until(self, expression: str) -> None:
        """Wait until an expression is true: for what a page hears of with some next frame."""
        look = f"(look = () => {expression} ? done() : requestAnimationFrame(look))()"
        self.ask(f"new Promise(done => {{ let look; {look}; }})")

    def resize(self, width: int, height: int) -> None:
        """Give the page so much room."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
            mobile=False,
        )  # fmt: skip

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        code = _KEYS.get(key, ord(key[0].upper()))
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                **(text if kind == "keyDown" else {}),
            )  # fmt: skip

    def click(self, x: float, y: float) -> None:
        """Click at a place in the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def prefer(self, scheme: str) -> None:
        """What the person before the screen prefers: light or dark."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self) -> bytes:
        """The window as a PNG."""
        return b64decode(str(self.call("Page.captureScreenshot")["data"]))

    def complaints(self) -> list[str]:
        """Errors and words on the console since the page was opened."""
        wanted = {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"}
        return [json.dumps(told) for name, told in self.said if name in wanted]

    def requests(self) -> list[str]:
        """Addresses that the page asked for since it was opened, its own included."""
        sent = [told for name, told in self.said if name == "Network.requestWillBeSent"]
        return [str(cast("Json", one["request"])["url"]) for one in sent]

    def _next(self) -> Json:
        while b"\0" not in self._rest:
            read = os.read(self._from, 1 << 20)
            if not read:
                raise AssertionError("the browser has ended; its words are in chromium.log")
            self._rest += read
        one, _, self._rest = self._rest.partition(b"\0")
        told = cast("Json", json.loads(one))
        if "method" in told:
            self.said.append((str(told["method"]), cast("Json", told["params"])))
        return told


def _high_pipe() -> tuple[int, int]:
    # Above 4, so that putting one pipe in its place does not close another.
    low = os.pipe()
    high = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 10) for one in low]
    for one in low:
        os.close(one)
    return high[0], high[1]
