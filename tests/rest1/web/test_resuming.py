"""The upload page in a browser, over connections that break, and with relays that are killed."""

import asyncio
import hashlib
import json
import random
import re
import signal
from contextlib import AsyncExitStack

import pytest
from browser import Page, chromium
from cutting_proxy import CuttingProxy
from peers import DONE, eventually
from processes import FREE_PORTS, started
from selenium.common.exceptions import NoAlertPresentException, UnexpectedAlertPresentException
from selenium.webdriver.common.keys import Keys
from send_program import answer_of

pytestmark = pytest.mark.needs("chromium", "chromedriver")

MB = 10**6
SIZE = 256 * MB


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def large(tmp_path):
    """A file that takes seconds to send; its beginning is random."""
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.write(random.Random(7).randbytes(8 * MB))  # noqa: S311 - any bytes will do
        file.truncate(SIZE)
    return path


@pytest.fixture
async def relay(tmp_path):
    """A factory of relays with these flags, which run as processes and share a state directory and a store."""
    async with AsyncExitStack() as stack:

        async def start(*flags):
            own = ("--state-dir", tmp_path / "relay", "--store", tmp_path / "store", "--no-fsync", "--grace", "0")
            return await stack.enter_async_context(started(*own, *FREE_PORTS, *flags))

        yield start


@pytest.fixture
def state(tmp_path):
    return tmp_path / "relay"


@pytest.fixture
def stored(tmp_path):
    """A function that returns the stored files."""
    return lambda: [path for path in (tmp_path / "store").glob("[!.]*/*") if path.is_file()]


def digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bytes_kept(state):
    """Return the bytes of the unfinished uploads in a state directory."""
    return sum(path.stat().st_size for path in (state / "uploads").rglob("*") if path.is_file())


def leave(browser):
    """Close the page, although it warns that an upload is under way."""
    try:
        browser.get("about:blank")
        browser.switch_to.alert.accept()
    except (NoAlertPresentException, UnexpectedAlertPresentException):
        pass


async def until_words(shown, words):
    """Wait until the state of the only upload begins with ``words``, and return it."""
    await asyncio.to_thread(shown.until, lambda: shown.uploads()[0]["state"].startswith(words))


async def until_stored(shown):
    (upload,) = await asyncio.to_thread(shown.until_state, "Stored")
    return json.loads(upload["answer"])


async def test_upload_continues_after_the_relay_was_killed_and_restarted(browser, large, relay, state, stored):
    first = await relay()
    shown = await asyncio.to_thread(Page, browser, first.rest1)
    await asyncio.to_thread(shown.choose, large)
    await eventually(lambda: bytes_kept(state) > 32 * MB)
    first.send(signal.SIGKILL)
    assert await first.ended() == -signal.SIGKILL
    assert 32 * MB < bytes_kept(state) < SIZE
    await until_words(shown, "Connection lost. Trying again in ")
    await relay("--rest1-port", first.rest1.rpartition(":")[2])
    answer = await until_stored(shown)
    (path,) = stored()
    assert answer["path"] == str(path)
    assert digest(path) == digest(large)
    await asyncio.to_thread(leave, browser)


async def test_page_that_was_closed_continues_when_the_file_is_chosen_again(
    browser, large, tmp_path, relay, state, stored
):
    (tmp_path / "tokens").write_text("me:sesame\n")
    server = await relay("--token-file", tmp_path / "tokens")
    async with CuttingProxy(server.rest1) as proxy:
        shown = await asyncio.to_thread(Page, browser, proxy.url)
        await asyncio.to_thread(shown.find("#token-value").send_keys, "sesame", Keys.ENTER)
        await asyncio.to_thread(shown.choose, large)
        await eventually(lambda: bytes_kept(state) > 32 * MB)
        await asyncio.to_thread(leave, browser)
        assert stored() == []
        shown = await asyncio.to_thread(Page, browser, proxy.url)
        (record,) = await asyncio.to_thread(shown.run, "return Object.values(localStorage)")
        assert "sesame" not in record
        await asyncio.to_thread(shown.choose, large)
        await until_stored(shown)
        assert proxy.sent < 1.5 * SIZE
        assert await asyncio.to_thread(shown.run, "return localStorage.length") == 0
        await asyncio.to_thread(leave, browser)
    (path,) = stored()
    assert digest(path) == digest(large)


async def test_progress_is_what_the_relay_has_acknowledged(browser, tmp_path, relay, stored):
    server = await relay()
    (tmp_path / "a.bin").write_bytes(bytes(MB))
    async with CuttingProxy(server.rest1) as proxy:
        shown = await asyncio.to_thread(Page, browser, proxy.url)
        proxy.hold_answers(after=MB // 2)
        await asyncio.to_thread(shown.choose, tmp_path / "a.bin")
        await asyncio.wait_for(proxy.held_answer.wait(), 20)
        (upload,) = await asyncio.to_thread(shown.uploads)
        assert upload["state"] == "Sending: 0 bytes of 1 MB"
        proxy.lose_answers()
        await until_stored(shown)
        await asyncio.to_thread(leave, browser)
    assert len(stored()) == 1


async def test_connections_that_break_cost_pauses_only(browser, large, relay, stored):
    server = await relay()
    async with CuttingProxy(server.rest1) as proxy:
        shown = await asyncio.to_thread(Page, browser, proxy.url)
        proxy.cut_again([40 * MB, 1, 60 * MB])
        await asyncio.to_thread(shown.choose, large)
        await until_stored(shown)
        assert proxy.made_cuts == 3
        await asyncio.to_thread(leave, browser)
    (path,) = stored()
    assert digest(path) == digest(large)


async def test_refusal_in_the_middle_of_an_upload_is_shown(browser, large, relay, stored):
    server = await relay("--accept", "image/*")
    shown = await asyncio.to_thread(Page, browser, server.rest1)
    await asyncio.to_thread(shown.choose, large)
    await asyncio.to_thread(shown.until, lambda: shown.uploads()[0]["detail"])
    (upload,) = await asyncio.to_thread(shown.uploads)
    assert "type" in upload["state"]
    assert await asyncio.to_thread(shown.run, "return localStorage.length") == 0
    assert stored() == []
    await asyncio.to_thread(leave, browser)


async def test_upload_api_that_is_away_gets_the_file_later(browser, tmp_path, relay, recorder):
    answers = [answer_of(503, b"away", "text/plain", "Retry-After: 3"), DONE]

    async def script(connection):
        while True:
            await connection.request()
            await connection.send(answers.pop(0))

    api = await recorder(script)
    server = await relay("--only", "rest1", "--upstream", api.url)
    (tmp_path / "a.txt").write_bytes(b"content")
    shown = await asyncio.to_thread(Page, browser, server.rest1)
    await asyncio.to_thread(shown.choose, tmp_path / "a.txt")
    await until_words(shown, "The upload API answered 503. Trying again in ")
    await until_stored(shown)
    assert [request.parts[0][1] for request in api.requests] == [b"content"] * 2
    await asyncio.to_thread(leave, browser)


async def test_same_file_twice_at_once_is_two_uploads(browser, tmp_path, relay, stored):
    server = await relay()
    (tmp_path / "a.bin").write_bytes(bytes(20 * MB))
    shown = await asyncio.to_thread(Page, browser, server.rest1)
    for _ in range(2):
        await asyncio.to_thread(shown.choose, tmp_path / "a.bin")
    await asyncio.to_thread(shown.until_state, "Stored", "Stored")
    assert len(stored()) == 2
    await asyncio.to_thread(leave, browser)


async def test_cancelled_upload_is_removed_from_the_relay(browser, large, relay, state, stored):
    server = await relay()
    shown = await asyncio.to_thread(Page, browser, server.rest1)
    await asyncio.to_thread(shown.choose, large)
    await eventually(lambda: bytes_kept(state) > 32 * MB)
    await asyncio.to_thread(shown.find(".cancel").click)
    await asyncio.to_thread(shown.until_state, "Cancelled")
    await eventually(lambda: bytes_kept(state) < MB)
    assert await asyncio.to_thread(shown.run, "return localStorage.length") == 0
    assert stored() == []
    await asyncio.to_thread(leave, browser)


async def test_without_resumable_the_page_sends_one_request(browser, tmp_path, relay):
    server = await relay("--no-resumable")
    (tmp_path / "a.txt").write_bytes(b"content")
    shown = await asyncio.to_thread(Page, browser, server.rest1)
    await asyncio.to_thread(shown.choose, tmp_path / "a.txt")
    await until_stored(shown)
    asked = await asyncio.to_thread(
        shown.run, "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert [url for url in asked if not re.search("/assets/", url)] == [f"{server.rest1}/upload1"]
    await asyncio.to_thread(leave, browser)


async def test_names_with_quotes_and_line_ends_are_quoted(browser, relay):
    """The page writes the head of the part itself (HTML, section 4.10.21.8)."""
    server = await relay()
    shown = await asyncio.to_thread(Page, browser, server.rest1)
    await asyncio.to_thread(
        shown.run,
        """const files = new DataTransfer();
           files.items.add(new File(["content"], 'a"b\\r\\nContent-Type: x;日本.txt'));
           document.body.dispatchEvent(
             new ClipboardEvent("paste", {clipboardData: files, bubbles: true}));""",
    )
    answer = await until_stored(shown)
    assert answer["files"][0]["filename"] == "a%22b%0D%0AContent-Type: x;日本.txt"
    assert answer["files"][0]["content_type"] == "application/octet-stream"
    await asyncio.to_thread(leave, browser)
