"""Chromium for tests, and the upload page as a user sees it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from peers import PATIENCE
from programs import program
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

AXE = Path(__file__).parent / "node/node_modules/axe-core/axe.min.js"
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--ignore-certificate-errors",  # the CA is new in each run
)
# The console repeats the status of refused requests. Tests check it on the page.
_TELLS_A_STATUS = "the server responded with a status of"


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """Debian's Chromium with a fresh profile."""
    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium")
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # With a given driver, selenium does not search for one.
    with webdriver.Chrome(options=options, service=Service(program("chromedriver"))) as browser:
        yield browser


class Page:
    """A page shown by ``browser``, with the actions of a user."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser = browser
        self._console()  # entries of earlier pages
        self.browser.get(url)

    def find(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def press(self, *keys: str) -> None:
        ActionChains(self.browser).send_keys(*keys).perform()

    def choose(self, *paths: Path) -> None:
        """Choose files in one selection."""
        self.find("#file").send_keys("\n".join(map(str, paths)))

    def fetch(self, url: str) -> None:
        """Enter a URL and fetch it."""
        self.find("#url").send_keys(url)
        self.find("#link button").click()

    def until(self, condition: Any) -> Any:
        """Wait until ``condition()`` is true, and return its value."""
        return WebDriverWait(self.browser, PATIENCE, poll_frequency=0.02).until(lambda _: condition())

    def uploads(self) -> list[dict[str, str]]:
        """Return the text of each upload in the list."""
        said: list[dict[str, str]] = self.run(
            """return [...document.querySelectorAll(".upload")].map((item) => Object.fromEntries(
                 ["name", "state", "detail", "answer"].map((part) =>
                   [part, item.querySelector(part === "answer" ? "pre" : `.${part}`).textContent])))"""
        )
        return said

    def until_state(self, *states: str) -> list[dict[str, str]]:
        """Wait until the uploads have these states, and return ``uploads()``."""
        self.until(lambda: [upload["state"] for upload in self.uploads()] == list(states))
        return self.uploads()

    def active(self) -> str:
        """Return the id or the accessible name of the element that has the focus."""
        element = self.browser.switch_to.active_element
        return element.get_attribute("id") or element.accessible_name

    def is_seen(self, selector: str) -> bool:
        return self.find(selector).is_displayed()

    def show(self, *, scheme: str = "light", width: int = 1000) -> None:
        """Set the colour scheme, or the width of the screen in pixels."""
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def violations(self) -> list[str]:
        """Return the accessibility violations that axe-core finds (WCAG 2.2 AA and best practices)."""
        self.run(AXE.read_text())
        found = self.browser.execute_async_script("axe.run().then(arguments[0])")
        return [f"{each['id']}: {node['html']}" for each in found["violations"] for node in each["nodes"]]

    def errors(self) -> list[str]:
        """Return errors, warnings and policy violations logged since the page was opened."""
        entries = self._console()
        grave = [entry["message"] for entry in entries if entry["level"] in {"SEVERE", "WARNING"}]
        return [message for message in grave if _TELLS_A_STATUS not in message]

    def foreign_origins(self) -> set[str]:
        """Return the foreign origins that the page has sent requests to."""
        asked = self.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        own = urlsplit(self.browser.current_url)
        return {url for url in asked if urlsplit(url)[:2] != own[:2]}

    def _console(self) -> list[dict[str, str]]:
        entries: list[dict[str, str]] = self.browser.get_log("browser")  # type: ignore[no-untyped-call]
        return entries
