"""Uppy with its Tus plugin, as a page in a browser uses it."""

import base64
import subprocess
from pathlib import Path

from peers import PATIENCE
from resumable_clients import HERE, Outcome, node_package
from selenium import webdriver


def bundle(directory: Path, page: str = "uppy_page.mjs") -> str:
    """The script ``page`` of tests/node with all that it imports, made in ``directory``."""
    node_package("@uppy/tus")
    made = directory / "uppy.js"
    program = node_package("esbuild") / "bin" / "esbuild"
    command = (program, HERE / "node" / page, "--bundle", f"--outfile={made}", "--log-level=error")
    subprocess.run(command, check=True, timeout=60)
    return made.read_text()


def upload(browser: webdriver.Chrome, script: str, url: str, content: bytes, *, name: str, tries: int) -> Outcome:
    """Upload ``content`` from a page of the relay at ``url``; ``script`` is what ``bundle`` made."""
    browser.get(url)
    browser.set_script_timeout(2 * PATIENCE)
    browser.execute_script(script)
    outcome = browser.execute_async_script(
        "const [endpoint, name, content, options, done] = arguments;"
        "uploadByUppy(endpoint, name, content, options).then(done, (error) => done(String(error)))",
        f"{url}/files/",
        name,
        base64.b64encode(content).decode(),
        {"retryDelays": [20] * tries},
    )
    assert isinstance(outcome, dict), outcome
    return Outcome(**outcome)
