"""The pages over HTTP, and in a browser."""

import asyncio
import json
import re
import selectors
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web
from browser import Page, chromium
from peers import PATIENCE, eventually
from selenium.webdriver.common.keys import Keys

from aiorelay.server.lifecycle import Chain, serve
from aiorelay.settings import Settings

pytestmark = pytest.mark.needs("chromium", "chromedriver", "npm")

FILE = b"x" * 100_000
PARTS = ("/", "/docs", "/assets/page.js", "/assets/page.css", "/assets/icon.svg", "/assets/swagger-ui/swagger-ui.css")


# -- over HTTP


@pytest.fixture
async def get(aiorelay_server):
    """GET a path from a relay with these settings, and return status, headers and body."""
    async with aiohttp.ClientSession() as session:

        async def get(path, headers=None, **settings):
            chain = await aiorelay_server(**settings)
            async with session.get(chain.rest1 + path, headers=headers, ssl=chain.tls) as answer:
                return answer.status, answer.headers, await answer.text()

        yield get


@pytest.mark.parametrize("path", PARTS)
async def test_a_current_copy_is_not_sent_again(get, path):
    status, headers, body = await get(path)
    assert (status, bool(body)) == (200, True)
    again = {"If-None-Match": f'W/{headers["ETag"]}, "another"'}
    status, headers, body = await get(path, again)
    assert (status, body, headers["Cache-Control"]) == (304, "", "no-cache")


@pytest.mark.parametrize("path", PARTS)
async def test_everything_is_served_under_a_strict_policy(get, path):
    _, headers, _ = await get(path)
    policy = dict(each.split(" ", 1) for each in headers["Content-Security-Policy"].split("; "))
    assert (policy["default-src"], policy["script-src"], policy["connect-src"]) == ("'none'", "'self'", "'self'")
    assert (policy["base-uri"], policy["frame-ancestors"]) == ("'none'", "'none'")
    assert ("unsafe" in policy["style-src"]) == (path == "/docs")
    assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")


async def test_the_form_has_the_relays_field(get):
    _, _, body = await get("/", field="a&b")
    assert 'name="a&amp;b"' in body


@pytest.mark.parametrize("path", ["/", "/assets/page.js"])
async def test_without_page_there_is_no_upload_page(get, path):
    status, _, body = await get(path, page=False)
    assert (status, json.loads(body)["type"]) == (404, "urn:aiorelay:not-found")


async def test_without_page_the_api_documentation_is_served(get):
    assert (await get("/docs", page=False))[0] == 200


@pytest.mark.parametrize("path", ["/assets/index.html", "/assets/swagger-ui/ORIGIN", "/assets/../pages.py", "/assets/"])
async def test_nothing_else_is_served(get, path):
    assert (await get(path))[0] == 404


# -- in a browser


class Background:
    """An event loop in another thread, in which relays run while tests wait for the browser."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def do(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def close(self) -> None:
        """Wait until every connection has ended, and stop the loop. The other ends must be closed."""
        self.do(eventually(lambda: len(self._selector.get_map()) == 1))  # the loop's own pipe
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="session")
def background():
    background = Background()
    yield background
    background.close()


@pytest.fixture(scope="session")
def browser(background, tmp_path_factory):  # noqa: ARG001 - the browser and its connections must end before the background
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


class Servers:
    """Relays, and proxies in front of them, which run in the background."""

    def __init__(self, background: Background, store: Path, state: Path) -> None:
        self._background = background
        self._settings = {"store": store, "fsync": False, "state_dir": state, "rest1_port": 0, "rest2_port": 0}
        self._stack = AsyncExitStack()

    def close(self) -> None:
        self._background.do(self._stack.aclose())

    def relay(self, **settings: object) -> Chain:
        settings = self._settings | {"grace": 0, "allow_net": ["127.0.0.0/8"]} | settings
        return self._background.do(self._stack.enter_async_context(serve(Settings(**settings))))

    def proxy(self, chain: Chain, prefix: str = "", *, cuts: int = 0) -> str:
        """Start a proxy that serves ``chain`` below ``prefix``, and return its URL.

        The proxy cuts the first ``cuts`` event streams after one block.
        """
        return self._background.do(self._proxy(chain, prefix, iter(range(cuts))))

    async def _proxy(self, chain: Chain, prefix: str, cuts: Iterator[int]) -> str:
        session = await self._stack.enter_async_context(aiohttp.ClientSession())

        async def pass_on(request: web.Request) -> web.StreamResponse:
            target = chain.rest1 + request.raw_path.removeprefix(prefix)
            options = {"headers": request.headers, "ssl": chain.tls}
            if request.can_read_body:
                options["data"] = request.content
            async with session.request(request.method, target, **options) as answer:
                response = web.StreamResponse(status=answer.status)
                response.content_type = answer.content_type
                await response.prepare(request)
                async for block in answer.content.iter_any():
                    await response.write(block)
                    if request.path.endswith("/events") and next(cuts, None) is not None:
                        break
                return response

        app = web.Application()
        app.router.add_route("*", prefix + "/{path:.*}", pass_on)
        runner = web.AppRunner(app)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}{prefix}/"


@pytest.fixture(scope="session")
def state(tmp_path_factory):
    return tmp_path_factory.mktemp("state")


@pytest.fixture
def servers(background, state, tmp_path):
    servers = Servers(background, tmp_path / "store", state)
    yield servers
    servers.close()


@pytest.fixture
def page(browser, servers) -> Iterator[Callable[..., Page]]:
    """A function that opens the upload page of a relay with these settings; the browser must log no errors."""
    opened = []

    def open_page(path="/", **settings):
        opened.append(Page(browser, servers.relay(**settings).rest1 + path))
        return opened[-1]

    yield open_page
    for each in opened:
        assert (each.errors(), each.foreign_origins()) == ([], set())
        each.show()


@pytest.fixture
def files(tmp_path):
    """A function that makes a file in a new directory."""

    def make(name, content=FILE):
        directory = tmp_path / f"files{len(list(tmp_path.iterdir()))}"
        directory.mkdir()
        (directory / name).write_bytes(content)
        return directory / name

    return make


class Peer:
    """A web server that is the source of a file and an upload API.

    The gate holds back the second half of the file, and the answer of the API.
    """

    def __init__(self, url: str) -> None:
        self.gate = threading.Event()
        self.answer = 200, "application/json", b'{"status": "done"}'
        self.source = f"{url}/a/file.bin"
        self.api = f"{url}/upload"
        self.received: list[tuple[str, bytes]] = []


@contextmanager
def serving_peer() -> Iterator[Peer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(2 * len(FILE)))
            self.end_headers()
            self.wfile.write(FILE)
            if peer.gate.wait(PATIENCE):
                self.wfile.write(FILE)

        def do_POST(self):
            content = self.rfile.read(int(self.headers["Content-Length"]))
            peer.received.append((self.headers["Authorization"], content))
            if not peer.gate.wait(PATIENCE):
                return
            status, media_type, body = peer.answer
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

        def handle(self):
            with suppress(ConnectionError):  # a cancelled upload closes the connection
                super().handle()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        peer = Peer(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield peer
        finally:
            peer.gate.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def peer():
    with serving_peer() as peer:
        yield peer


def stored(tmp_path):
    return sorted(path.name for path in (tmp_path / "store").rglob("*") if path.is_file())


def test_a_chosen_file_is_stored_and_the_answer_shown(page, files):
    shown = page()
    shown.choose(files("report.pdf"))
    (upload,) = shown.until_state("Stored")
    answer = json.loads(upload["answer"])
    assert (upload["name"], answer["files"][0]["size"]) == ("report.pdf", len(FILE))
    assert Path(answer["path"]).read_bytes() == FILE
    assert shown.find("#status").get_attribute("textContent").startswith("report.pdf: Stored")
    assert not shown.is_seen("pre")
    shown.find("summary").click()
    assert shown.is_seen("pre")


def test_several_files_are_uploads_of_their_own(page, files, tmp_path):
    names = [f"{number}.txt" for number in range(8)]
    shown = page()
    shown.choose(*(files(name) for name in names))
    assert [upload["name"] for upload in shown.until_state(*["Stored"] * 8)] == names
    assert stored(tmp_path) == names


def test_a_file_can_be_chosen_again(page, files):
    shown = page()
    path = files("again.txt")
    shown.choose(path)
    shown.until_state("Stored")
    shown.choose(path)
    shown.until_state("Stored", "Stored")


@pytest.mark.parametrize("target", [".drop", "footer"])
def test_files_can_be_dropped_anywhere(page, tmp_path, target):
    shown = page()
    shown.run(
        """const files = new DataTransfer();
           for (const name of ["one.txt", "two.txt"]) files.items.add(new File(["dropped"], name));
           for (const type of ["dragenter", "dragover", "drop"])
             document.querySelector(arguments[0]).dispatchEvent(
               new DragEvent(type, {dataTransfer: files, bubbles: true, cancelable: true}));""",
        target,
    )
    shown.until_state("Stored", "Stored")
    assert stored(tmp_path) == ["one.txt", "two.txt"]
    assert shown.all(".dragging") == []


def test_files_are_taken_from_the_clipboard(page, tmp_path):
    shown = page()
    shown.run(
        """const clipboardData = new DataTransfer();
           clipboardData.items.add(new File(["pasted"], "pasted.png"));
           document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData, bubbles: true}));"""
    )
    shown.until_state("Stored")
    assert stored(tmp_path) == ["pasted.png"]


def test_a_refusal_is_shown_with_the_problems_texts(page, files, tmp_path):
    shown = page(max_size="1KiB")
    shown.choose(files("large.bin"), files("small.bin", b"small"))
    large, _ = shown.until_state("The upload is too large", "Stored")
    assert "1 KiB" in large["detail"] or "1KiB" in large["detail"]
    assert stored(tmp_path) == ["small.bin"]


def test_a_refusal_reaches_the_user_while_the_file_is_still_being_sent(page, files):
    shown = page(max_size="1KiB")
    shown.choose(files("large.bin", b"x" * 30_000_000))
    shown.until_state("The upload is too large")


MANY = "You have made as many uploads as are allowed."


@pytest.mark.parametrize("resumable", [True, False])
def test_a_limit_is_shown_with_the_time_of_the_next_try(page, files, resumable):
    shown = page(rate_limit="1/1h", resumable=resumable)
    shown.choose(files("a.txt"))
    shown.until_state("Stored")
    shown.choose(files("b.txt"))
    _, refused = shown.until_state("Stored", "Too many uploads")
    assert re.fullmatch(rf"{MANY} Try again at \d\d:\d\d( on \d+ \w+)?\.", refused["detail"])
    assert shown.is_seen(".upload:last-child .again")


def test_a_short_wait_is_told_in_seconds(page, files):
    shown = page(rate_limit="1/1m", resumable=False)
    shown.choose(files("a.txt"))
    shown.until_state("Stored")
    shown.choose(files("b.txt"))
    _, refused = shown.until_state("Stored", "Too many uploads")
    assert re.fullmatch(rf"{MANY} Try again in \d+ s\.", refused["detail"])


def test_a_limit_is_shown_while_a_resumable_upload_waits_for_it(page, files):
    shown = page(rate_limit="1/10s")
    shown.choose(files("a.txt"))
    shown.until_state("Stored")
    shown.choose(files("b.txt"))
    shown.until(lambda: shown.uploads()[1]["state"].startswith(f"Too many uploads. {MANY} Trying again in "))
    shown.until_state("Stored", "Stored")


def test_a_used_quota_is_shown_with_its_limit(page, files):
    # A resumable upload would wait for midnight, if that is less than its patience away.
    shown = page(upload_quota="150KB", resumable=False)
    shown.choose(files("a.txt"))
    shown.until_state("Stored")
    shown.choose(files("b.txt"))
    _, refused = shown.until_state("Stored", "The quota of the day is used up")
    assert re.fullmatch(r"You may upload 150000 bytes in a day\. Try again (at|in) .+\.", refused["detail"])


def test_a_refused_fetch_is_shown_with_the_time_of_the_next_try(page, peer):
    shown = page(rate_limit="1/1h")
    peer.gate.set()
    shown.fetch(peer.source)
    shown.until_state("Stored")
    shown.fetch(peer.source)
    _, refused = shown.until_state("Stored", "Too many uploads")
    assert refused["detail"].startswith(f"{MANY} Try again at ")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, 0), ("", 0), ("soon", 0), ("-1", 0), ("0", 0), ("40", 40), ("Thu, 01 Jan 1970 00:00:00 GMT", 0)],
)
def test_retry_after_is_read_as_seconds(page, value, seconds):
    read = "return import('/assets/words.js').then((words) => words.secondsOf(arguments[0]))"
    assert page().run(read, value) == seconds


@pytest.mark.parametrize("value", ["9" * 40, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_very_long_wait_is_told_too(page, value):
    tell = "return import('/assets/words.js').then(({secondsOf, tryAgain}) => tryAgain(secondsOf(arguments[0])))"
    assert re.fullmatch(r"Try again at \d\d:\d\d on \d+ \w+\.", page().run(tell, value))


def test_names_are_text_and_nothing_else(page, files):
    shown = page()
    shown.choose(files("<img src=x onerror=alert(1)> ünï 日本.txt", b"content"))
    (upload,) = shown.until_state("Stored")
    assert upload["name"] == "<img src=x onerror=alert(1)> ünï 日本.txt"


def test_answers_are_text_and_nothing_else(page, files, peer):
    shown = page(upstream=peer.api)
    peer.answer = 422, "text/html", b"<script>alert(1)</script>"
    peer.gate.set()
    shown.choose(files("a.txt"))
    (upload,) = shown.until_state("The upload API answered 422")
    assert upload["answer"] == "<script>alert(1)</script>"


def test_a_file_that_is_sent_waits_for_the_verdict_and_can_be_cancelled(page, files, peer):
    shown = page(upstream=peer.api)
    shown.choose(files("slow.bin"))
    shown.until_state("Sent; waiting for the answer")
    shown.find(".cancel").click()
    shown.until_state("Cancelled")
    assert not shown.is_seen("progress")


def test_a_failed_upload_can_be_tried_again(page, files, peer):
    shown = page(upstream=peer.api)
    peer.answer = 422, "text/plain", b"not now"
    peer.gate.set()
    shown.choose(files("a.txt"))
    shown.until_state("The upload API answered 422")
    peer.answer = 200, "text/plain", b"now"
    shown.find(".again").click()
    (upload,) = shown.until_state("Stored")
    assert upload["answer"] == "now"


def test_a_lost_connection_is_shown(browser, servers, files):
    shown = Page(browser, servers.relay().rest1)
    servers.close()
    shown.choose(files("a.txt"))
    shown.until(lambda: shown.uploads()[0]["state"].startswith("Connection lost. Trying again in "))
    shown.find(".cancel").click()
    shown.until_state("Cancelled")


def test_a_lost_connection_is_shown_where_uploads_cannot_be_continued(browser, servers, files):
    shown = Page(browser, servers.relay(resumable=False).rest1)
    servers.close()
    shown.choose(files("a.txt"))
    shown.until_state("The connection was lost")


def test_an_address_is_fetched_with_its_progress(page, peer, tmp_path):
    shown = page()
    shown.fetch(peer.source)
    shown.until_state("Fetching: 100 kB of 200 kB")
    assert shown.find("progress").get_property("value") == 0.5
    peer.gate.set()
    (upload,) = shown.until_state("Stored")
    assert json.loads(upload["answer"])["files"][0]["size"] == 2 * len(FILE)
    assert stored(tmp_path) == ["file.bin"]


def test_an_event_stream_that_is_cut_off_is_resumed(browser, servers, peer):
    shown = Page(browser, servers.proxy(servers.relay(), cuts=2))
    peer.gate.set()
    shown.fetch(peer.source)
    shown.until_state("Stored")


def test_a_link_that_is_dropped_is_fetched(page, peer):
    shown = page()
    peer.gate.set()
    shown.run(
        """const dataTransfer = new DataTransfer();
           dataTransfer.setData("text/uri-list", `# from elsewhere\r\n${arguments[0]}\r\njavascript:alert(1)`);
           document.body.dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true}));""",
        peer.source,
    )
    shown.until_state("Stored")


def test_a_fetch_can_be_cancelled(page, peer, tmp_path):
    shown = page()
    shown.fetch(peer.source)
    shown.until_state("Fetching: 100 kB of 200 kB")
    shown.find(".cancel").click()
    shown.until_state("Cancelled")
    peer.gate.set()
    assert stored(tmp_path) == []


def test_a_refused_url_is_shown_with_the_problems_texts(page, peer):
    shown = page(allow_net=[])
    shown.fetch(peer.source)
    (upload,) = shown.until_state("The address may not be dialled")
    assert upload["detail"]


@pytest.mark.parametrize("text", ["", "no address", "ftp://example.org/file"])
def test_a_text_that_is_not_a_url_is_not_sent(page, text):
    shown = page()
    shown.fetch(text)
    assert shown.uploads() == []


def test_everything_can_be_done_with_the_keyboard(page, peer):
    shown = page()
    shown.press(Keys.TAB)
    assert shown.active() == "file"
    assert shown.find(".drop").value_of_css_property("outline-style") == "solid"
    shown.press(Keys.TAB)
    assert shown.active() == "url"
    shown.press(peer.source, Keys.ENTER)
    shown.until_state("Fetching: 100 kB of 200 kB")
    shown.press(Keys.TAB, Keys.TAB)
    assert shown.active() == f"Cancel: {peer.source}"
    shown.press(Keys.ENTER)
    shown.until_state("Cancelled")
    assert shown.active() == f"Try again: {peer.source}"
    shown.press(Keys.SPACE)
    shown.until_state("Fetching: 100 kB of 200 kB")
    assert shown.active() == f"Cancel: {peer.source}"
    peer.gate.set()
    shown.until_state("Stored")
    assert shown.active() == "uploads-title"


def test_finished_uploads_can_be_cleared(page, files, peer):
    shown = page()
    shown.choose(files("a.txt"))
    shown.until_state("Stored")
    shown.fetch(peer.source)
    shown.until_state("Stored", "Fetching: 100 kB of 200 kB")
    shown.find("#clear").click()
    shown.until_state("Fetching: 100 kB of 200 kB")
    assert not shown.is_seen("#clear")


def test_no_token_is_requested_without_token_file(page):
    assert not page().is_seen("#token")


@pytest.fixture
def tokens(files):
    return files("tokens", b"me:sesame\n")


def test_uploads_wait_for_a_valid_token(page, files, tokens, peer):
    shown = page(token_file=tokens)
    assert shown.is_seen("#token")
    shown.choose(files("a.txt"))
    shown.fetch(peer.source)
    shown.until_state("Waiting for a token", "Waiting for a token")
    shown.find("#token-value").send_keys("wrong", Keys.ENTER)
    shown.until(lambda: "not valid" in shown.find("#token-hint").text)
    assert shown.active() == "token-value"
    shown.press("sesame", Keys.ENTER)
    shown.until_state("Stored", "Fetching: 100 kB of 200 kB")
    peer.gate.set()
    shown.until_state("Stored", "Stored")
    assert not shown.is_seen("#token")


def test_a_token_is_kept_for_the_tab_only(page, files, tokens):
    shown = page(token_file=tokens)
    shown.find("#token-value").send_keys("sesame", Keys.ENTER)
    shown.browser.refresh()
    assert not shown.is_seen("#token")
    shown.choose(files("a.txt"))
    shown.until_state("Stored")
    assert shown.run("return [localStorage.length, document.cookie, location.search]") == [0, "", ""]


def test_a_token_is_sent_in_the_header_of_the_setting(page, files, tokens, peer):
    shown = page(token_file=tokens, token_header="X-Relay-Token", upstream=peer.api)
    peer.gate.set()
    shown.find("#token-value").send_keys("sesame", Keys.ENTER)
    shown.choose(files("a.txt"))
    shown.until_state("Stored")
    assert [authorization for authorization, _ in peer.received] == [None]


def test_a_token_is_requested_when_the_upload_api_answers_401(page, files, peer):
    shown = page(upstream=peer.api)
    peer.answer = 401, "text/plain", b"who are you?"
    peer.gate.set()
    shown.choose(files("a.txt"))
    shown.until_state("Waiting for a token")
    peer.answer = 200, "text/plain", b"welcome"
    shown.find("#token-value").send_keys("sesame", Keys.ENTER)
    shown.until_state("Stored")
    assert [authorization for authorization, _ in peer.received] == [None, "Bearer sesame"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible(page, files, tokens, peer, scheme):
    """axe-core finds no violation in any state of the page."""
    shown = page(token_file=tokens, max_size="150KB")
    shown.show(scheme=scheme)
    assert shown.violations() == []
    shown.find("#token-value").send_keys("sesame", Keys.ENTER)
    shown.choose(files("small.txt"), files("large.txt", FILE * 2))
    shown.until_state("Stored", "The upload is too large")
    shown.find("summary").click()
    shown.fetch(peer.source)
    shown.until_state("Stored", "The upload is too large", "The upload is too large")
    assert shown.violations() == []


@pytest.mark.parametrize("width", [320, 375, 1600])
def test_it_fits_every_screen(page, files, tokens, width):
    shown = page(token_file=tokens)
    shown.show(width=width)
    shown.find("#token-value").send_keys("sesame", Keys.ENTER)
    shown.choose(files("a-name-without-an-end" * 9 + ".txt"))
    shown.until_state("Stored")
    shown.find("summary").click()
    assert shown.run("return document.documentElement.scrollWidth") <= width


def test_it_works_below_a_path_of_a_proxy(browser, servers, files, peer):
    shown = Page(browser, servers.proxy(servers.relay(), "/tools/relay"))
    shown.choose(files("a.txt"))
    shown.until_state("Stored")
    shown.fetch(peer.source)
    shown.until_state("Stored", "Fetching: 100 kB of 200 kB")
    peer.gate.set()
    shown.until_state("Stored", "Stored")
    assert (shown.errors(), shown.foreign_origins()) == ([], set())
    shown.find("footer a").click()
    assert urlsplit(shown.browser.current_url).path == "/tools/relay/docs"


def test_without_scripts_it_is_a_plain_form(page, browser, files, tmp_path):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        shown = page(field="document")
        shown.choose(files("plain.txt"))
        shown.find("noscript button").click()
        shown.until(lambda: urlsplit(browser.current_url).path == "/upload1")
        assert '"status": "done"' in re.sub(r"\s+", " ", shown.find("body").text)
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert stored(tmp_path) == ["plain.txt"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_swagger_ui_shows_every_upload_path(page, scheme):
    shown = page("/docs")
    shown.show(scheme=scheme)
    shown.until(lambda: shown.all(".opblock"))
    paths = {each.text for each in shown.all(".opblock-summary-path")}
    assert {"/upload", "/upload1", "/upload2"} <= {path.replace("\u200b", "") for path in paths}
    assert shown.all(".errors-wrapper") == []


def test_swagger_ui_uploads_with_try_it_out(page, files, tmp_path):
    shown = page("/docs")
    shown.until(lambda: shown.all("#operations-uploads-uploadForm"))
    shown.find("#operations-uploads-uploadForm .opblock-summary-control").click()
    shown.until(lambda: shown.all(".try-out__btn"))
    shown.find(".try-out__btn").click()
    shown.until(lambda: shown.all("input[type=file]"))
    shown.find("input[type=file]").send_keys(str(files("a.txt")))
    shown.find("button.execute").click()
    shown.until(lambda: shown.all(".live-responses-table"))
    assert urlsplit(shown.find(".request-url pre").text).query == ""  # no invented parameter
    assert stored(tmp_path) == ["a.txt"]
