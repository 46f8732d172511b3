"""A real browser without a window: Chromium, driven as its users drive it.

One for a test session. What a page logs and what it asks for is looked at by who shows it.
"""

import base64
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from tests.support.needs import unavailable

AXE = Path(sys.prefix, "node_modules", "axe-core", "axe.min.js")
"""Where scripts/test puts it."""


class Browser:
    """A browser with a single page."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def show(self, page: Path, width: int = 1400, *, dark: bool = False) -> None:
        """Open a file in a window of a width, by daylight or not."""
        self.driver.get("about:blank")
        self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        self.driver.get_log("performance")  # type: ignore[no-untyped-call]
        self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.do("Emulation.setEmulatedMedia", media="screen", features=[scheme])
        self.driver.get(page.as_uri())

    def do(self, command: str, **said: Any) -> Any:
        """Give the browser a command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(command, said)

    def run(self, script: str, *words: object) -> Any:
        """Return what a script returns, run by us and not by the page."""
        return self.driver.execute_script(script, *words)

    def logged(self) -> list[str]:
        """Return what the page has had to say since it was opened."""
        found = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [f"{one['level']}: {one['message']}" for one in found]

    def requests(self) -> list[str]:
        """Return the addresses that were asked for, the page's own among them.

        What the page's policy forbids is not.
        """
        events = [
            json.loads(one["message"])["message"]
            for one in self.driver.get_log("performance")  # type: ignore[no-untyped-call]
        ]
        forbidden = {
            event["params"]["requestId"]
            for event in events
            if event["method"] == "Network.loadingFailed"
            and event["params"].get("blockedReason") == "csp"
        }
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
            and event["params"]["requestId"] not in forbidden
        ]

    def screenshot(self, path: Path, height: int | None = None) -> None:
        """Write a picture of the page, all of it unless a height is given."""
        size = self.do("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"]}
        said = self.do(
            "Page.captureScreenshot", captureBeyondViewport=True, clip={**clip, "scale": 1}
        )
        path.write_bytes(base64.b64decode(said["data"]))

    def faults(self) -> list[str]:
        """Return what axe finds that keeps somebody from using the page, in a line each."""
        if not AXE.exists():
            unavailable(
                "browser", f"{AXE} is missing (npm install --prefix {sys.prefix} axe-core@4)"
            )
        self.run(AXE.read_text())
        found = self.driver.execute_async_script(
            "const done = arguments[0]; axe.run().then((found) => done(found.violations))"
        )
        return [
            f"{one['impact']}: {one['id']}: {one['help']}: {node['html'][:200]}"
            for one in found
            for node in one["nodes"]
        ]


def started() -> Browser:
    """Return a browser; who starts it ends it."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        unavailable("browser", "chromium is missing (apt install chromium-driver)")
    options = ChromeOptions()
    options.binary_location = chromium
    for word in (
        "--headless=new", "--hide-scrollbars", "--disable-gpu", "--disable-dev-shm-usage",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync",
    ):  # fmt: skip
        options.add_argument(word)
    if os.geteuid() == 0:
        # Chromium's own sandbox is not for root.
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return Browser(Chrome(options, Service(chromedriver)))
