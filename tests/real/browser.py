"""Chromium without a screen, driven over its DevTools protocol: a user's hands, and ears for the console."""

import base64
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import websocket

from tests.real.debian import program

LIMIT_S = 60.0

_OPTIONS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-sync --disable-extensions "
    "--remote-debugging-port=0"
).split()


class Page:
    """One page of a browser. `errors` are what its console shows red, with requests that failed."""

    def __init__(self, socket: websocket.WebSocket) -> None:
        self.errors: list[str] = []
        self._socket = socket
        self._sent = 0
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        self.send("Page.bringToFront")  # what nobody sees is not drawn
        self.size(1400, 1000)

    def send(self, method: str, **parameters: object) -> dict[str, Any]:
        """A command of the protocol and its result."""
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": parameters}))
        while True:
            message: dict[str, Any] = json.loads(self._socket.recv())
            self._note(message.get("method"), message.get("params", {}))
            if message.get("id") == self._sent:
                assert "error" not in message, f"{method}: {message['error']}"
                result: dict[str, Any] = message["result"]
                return result

    def _note(self, event: str | None, about: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Runtime.consoleAPICalled" and about["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(part.get("value", part)) for part in about["args"]))
        elif event == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")

    def open(self, url: str) -> None:
        """Go there, and return once it is loaded."""
        result = self.send("Page.navigate", url=url)
        assert "errorText" not in result, f"{url}: {result['errorText']}"
        self.wait_for("document.readyState == 'complete' && location.href != 'about:blank'", url)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, of its promise if it is one."""
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, f"{script}: {result['exceptionDetails']}"
        return result["result"].get("value")

    def wait_for(self, script: str, what: str = "", limit_s: float = LIMIT_S) -> Any:
        """The first value of an expression that is true, and raises nothing; fails after `limit_s`."""
        deadline = time.monotonic() + limit_s
        patient = f"(() => {{ try {{ return {script}; }} catch {{ return null; }} }})()"
        while not (value := self.evaluate(patient)):
            if time.monotonic() > deadline:
                text = self.evaluate("document.body.innerText")
                pytest.fail(f"{what or script}: not within {limit_s:g} s. {self.errors}. Page:\n{text}")
            time.sleep(0.05)
        return value

    def text(self, selector: str = "body") -> str:
        """What can be read there, once there is something."""
        element = _element(selector)
        return str(self.wait_for(f"{element}.innerText ?? {element}.textContent", selector))

    def click(self, element: str) -> None:
        """Click the middle of what an expression gives, as a mouse does."""
        x, y = self.wait_for(
            f"(element => {{ element.scrollIntoView({{block: 'center'}});"
            "const box = element.getBoundingClientRect();"
            f"return [box.x + box.width / 2, box.y + box.height / 2]; }})({element})",
            f"{element} to click",
        )
        self.point(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def click_text(self, selector: str, text: str) -> None:
        """Click the element among those of a selector that reads so, in small letters."""
        elements = f"[...document.querySelectorAll({selector!r})]"
        self.click(f"{elements}.find(element => element.innerText.trim().toLowerCase() === {text!r})")

    def point(self, x: float, y: float) -> None:
        """Move the mouse there."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def write(self, selector: str, text: str) -> None:
        """Put a text into a field, in place of what is in it."""
        self.wait_for(f"{_element(selector)} !== null", selector)
        self.evaluate(f"{_element(selector)}.focus(), {_element(selector)}.select()")
        self.send("Input.insertText", text=text)

    def size(self, width: int, height: int) -> None:
        sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **sizes)

    def screenshot(self, path: Path, whole_page: bool = True) -> None:
        taken = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole_page)
        path.write_bytes(base64.b64decode(taken["data"]))


def _element(selector: str) -> str:
    return f"document.querySelector({selector!r})"


class Browser:
    """A running browser; its pages share nothing but its process and what they store by address."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/json"

    @contextmanager
    def page(self) -> Iterator[Page]:
        """A new page, in front of the others."""
        page = self._ask("new?about:blank", "PUT")
        socket = websocket.create_connection(
            page["webSocketDebuggerUrl"], suppress_origin=True, timeout=LIMIT_S
        )
        try:
            yield Page(socket)
        finally:
            socket.close()
            self._ask(f"close/{page['id']}")

    def _ask(self, path: str, method: str = "GET") -> Any:
        with urlopen(Request(f"{self._url}/{path}", method=method), timeout=LIMIT_S) as answer:
            said = answer.read()
        return json.loads(said) if said.startswith(b"{") else said


@contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """A browser of its own that keeps its files in `profile`, a folder that is not there yet."""
    command = [program("chromium"), *_OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    silent = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=silent, stdout=silent, stderr=silent, start_new_session=True)
    try:
        yield Browser(_port(profile))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _port(profile: Path) -> int:
    """Where it listens, once it has written that down."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        with suppress(OSError, IndexError, ValueError):
            return int((profile / "DevToolsActivePort").read_text().split()[0])
        time.sleep(0.05)
    pytest.fail(f"chromium did not start within {LIMIT_S:g} s")
