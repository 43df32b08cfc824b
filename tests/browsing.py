"""A real Chromium for the tests of pages, driven by Selenium; nothing of it reaches a network."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
DRAWN = "return document.documentElement.getAttribute('data-drawn') === 'yes'"

# Ratio of luminances of an element's text and what lies behind it (WCAG 2.2, 1.4.3).
CONTRAST = """
const rgb = (text) => (text.match(/[0-9.]+/g) || [0, 0, 0]).map(Number);
const light = (colour) => { const [r, g, b] = colour.slice(0, 3).map((v) => {
  v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = (element) => { for (let e = element; e; e = e.parentElement) {
  const colour = getComputedStyle(e).backgroundColor;
  if (!/, 0\\)$/.test(colour)) return rgb(colour); } return [255, 255, 255]; };
const [a, b] = [light(rgb(getComputedStyle(arguments[0]).color)), light(behind(arguments[0]))];
return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
"""


class Browser:
    """One window."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        for flag in FLAGS:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
        self.driver.implicitly_wait(5)

    @staticmethod
    def there() -> bool:
        """Whether this machine has what it takes."""
        return all(shutil.which(name) for name in ("chromium", "chromedriver"))

    def close(self) -> None:
        """End it and its driver."""
        self.driver.quit()

    def open(self, page: Path, width: int = 1280, height: int = 900) -> None:
        """Open a page from disk and wait for its charts."""
        self.media()
        self.resize(width, height)
        self.driver.get(page.resolve().as_uri())
        if "vegaEmbed" in page.read_text(encoding="utf-8"):
            WebDriverWait(self.driver, 300).until(lambda driver: driver.execute_script(DRAWN))

    def resize(self, width: int, height: int) -> None:
        """Set the size of the view, also below the smallest window."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def media(self, kind: str = "screen", scheme: str = "light") -> None:
        """Show the page as on a screen or in print, light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", media=kind, features=features)

    def command(self, name: str, **parameters: Any) -> Any:
        """A command of Chromium's own protocol."""
        return self.driver.execute_cdp_cmd(name, parameters)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript in the page."""
        return self.driver.execute_script(script, *arguments)

    def forget(self) -> None:
        """Leave the page, and what it asked for or complained of."""
        self.driver.get("about:blank")
        self.problems()
        self.requests()

    def problems(self) -> list[str]:
        """Messages of the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses asked for since the last call."""
        events = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [event["request"]["url"] for event in sent]

    def screenshot(self, path: Path) -> None:
        """Save the whole page as PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        found = self.command("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))
