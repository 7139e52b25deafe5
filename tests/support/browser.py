"""A real Chromium, driven through the DevTools protocol: what a person would do on a page, and what the console says."""

import base64
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
KEYS = {"Enter": 13, "Escape": 27, "ArrowDown": 40, "ArrowUp": 38, "ArrowLeft": 37, "ArrowRight": 39, "/": 191}
PORT = re.compile(r"DevTools listening on (ws://\S+)")


def find() -> str | None:
    """The browser of this machine, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One browser with one page. `errors` are what its console reported."""

    def __init__(self, path: str):
        import websocket

        self.home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # its helpers may still be writing
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"]
        flags += ["--autoplay-policy=no-user-gesture-required", f"--user-data-dir={self.home.name}", "about:blank"]
        self.process = subprocess.Popen(
            [path, *flags], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
        )
        for line in self.process.stderr:
            if found := PORT.search(line):
                break
        else:
            raise RuntimeError(f"{path} did not start")
        self.socket = websocket.create_connection(found[1], timeout=60, suppress_origin=True)
        self.count, self.session = itertools.count(1), None
        self.errors: list[str] = []
        self.requested: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End it, and the processes that it started: Debian's command is a shell script with the browser as its child."""
        self.socket.close()
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(20)
        for _ in range(200):
            if not self.lives():
                break
            time.sleep(0.1)
        else:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.stderr.close()
        self.home.cleanup()

    def lives(self) -> bool:
        """Whether any of its processes is there."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def call(self, method: str, **words: Any) -> dict[str, Any]:
        """One command; its result."""
        number = next(self.count)
        message = {"id": number, "method": method, "params": words}
        self.socket.send(json.dumps(message | ({"sessionId": self.session} if self.session else {})))
        while True:
            said = json.loads(self.socket.recv())
            if said.get("id") == number:
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']}")
                return said["result"]
            self.hear(said)

    def hear(self, said: dict[str, Any]) -> None:
        """Note errors of the console, and what was asked of which address."""
        about = said.get("params", {})
        if said.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(about["exceptionDetails"])[:2000])
        elif said.get("method") == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(about["args"])[:2000])
        elif said.get("method") == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")
        elif said.get("method") == "Network.requestWillBeSent":
            self.requested.append(about["request"]["url"])

    def open(self, address: str) -> None:
        """Go to an address and wait until it has loaded."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """The value of an expression of the page."""
        said = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in said:
            raise RuntimeError(json.dumps(said["exceptionDetails"])[:2000])
        return said["result"].get("value")

    def wait(self, script: str, seconds: float = 30) -> Any:
        """The value of an expression as soon as it is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > end:
                raise AssertionError(
                    f"waited {seconds} s for {script}; the page says: {self.run('document.body.innerText')}"
                )
            time.sleep(0.05)
        return value

    def press(self, key: str) -> None:
        """One key, down and up."""
        words = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS.get(key, ord(key[0].upper()))}
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **words, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **words)

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """The middle of the first element that a selector finds."""
        self.point(selector, "mousePressed", "mouseReleased")

    def hover(self, selector: str) -> None:
        """Move the mouse over it."""
        self.point(selector)

    def point(self, selector: str, *then: str) -> None:
        place = self.run(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)}); one.scrollIntoView({{block: 'center'}});"
            " const box = one.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2] })()"
        )
        for kind in ("mouseMoved", *then):
            pressed = {"button": "left", "clickCount": 1} if then and kind != "mouseMoved" else {}
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], **pressed)

    def size(self, width: int, height: int, phone: bool = False) -> None:
        """The size of the window."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def prefer(self, scheme: str) -> None:
        """light or dark."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self) -> bytes:
        """A PNG of what is seen."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
