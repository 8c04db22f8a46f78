"""The upload page in a frame of an application on another origin, which gives it a token."""

import asyncio
import re
from contextlib import contextmanager

import aiohttp
import pytest
from aiohttp import web
from browser import Page, chromium
from shell import README

pytestmark = pytest.mark.needs("chromium", "chromedriver")

OTHER = "https://other.example:8443"


# -- the policy


@pytest.fixture
async def framing(aiorelay_server):
    """The frame-ancestors of a path of a relay with these settings."""
    async with aiohttp.ClientSession() as session:

        async def get(path, **settings):
            chain = await aiorelay_server(**settings)
            async with session.get(chain.rest1 + path, ssl=chain.tls) as answer:
                policy = answer.headers["Content-Security-Policy"]
                return [each for each in policy.split("; ") if each.startswith("frame-ancestors")]

        yield get


@pytest.mark.parametrize(
    ("origins", "named"),
    [
        ([], "'none'"),
        (["*"], "'none'"),
        (["*", OTHER], OTHER),
        ([OTHER, "http://localhost:1"], f"{OTHER} http://localhost:1"),
    ],
)
async def test_only_named_origins_may_embed_the_page(framing, origins, named):
    assert await framing("/", allow_origin=origins) == [f"frame-ancestors {named}"]


@pytest.mark.parametrize("path", ["/docs", "/assets/page.js"])
async def test_nothing_else_may_be_embedded(framing, path):
    assert await framing(path, allow_origin=[OTHER]) == ["frame-ancestors 'none'"]


# -- in a browser


class Application:
    """An application whose page is ``html``."""

    def __init__(self) -> None:
        self.html = ""
        self.origin = ""

    async def show(self, _request):
        return web.Response(text=self.html, content_type="text/html")


@pytest.fixture
async def application():
    application = Application()
    app = web.Application()
    app.router.add_get("/", application.show)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    application.origin = f"http://localhost:{runner.addresses[0][1]}"
    yield application
    await runner.cleanup()


@pytest.fixture
async def relay(aiorelay_server, tmp_path):
    """A function that starts a relay which requires the token ``secret``."""
    (tokens := tmp_path / "tokens").write_text("alice:secret\n")

    async def start(*origins):
        return await aiorelay_server(allow_origin=origins, token_file=tokens)

    return start


@pytest.fixture
def file(tmp_path):
    (file := tmp_path / "a.txt").write_bytes(b"content")
    return file


@contextmanager
def embedded(profile, application):
    """The page of the application, with its frame as the current one."""
    with chromium(profile) as browser:
        page = Page(browser, application.origin)
        browser.switch_to.frame(0)
        yield page


async def test_the_application_of_the_readme_gives_its_token(relay, application, file, tmp_path):
    chain = await relay(application.origin)
    (code,) = re.findall(r"```html\n(.*?)```", README, re.DOTALL)
    application.html = "<script>const token = 'secret';</script>" + code.replace("https://localhost:8000", chain.rest1)

    def use():
        with embedded(tmp_path / "chromium", application) as page:
            page.until(lambda: not page.is_seen("#token"))
            page.choose(file)
            page.until_state("Stored")
            assert page.run("return [sessionStorage.length, localStorage.length, document.cookie]") == [0, 0, ""]
            assert page.errors() == []

    await asyncio.to_thread(use)
    assert len(chain.stored()) == 1


async def test_the_application_is_asked_again_when_its_token_is_refused(relay, application, file, tmp_path):
    chain = await relay(application.origin)
    application.html = f"""<iframe src="{chain.rest1}"></iframe><script>
      const tokens = ["wrong", "wrong", "secret"];
      addEventListener("message", ({{source, origin}}) => {{
        const send = (token) => source.postMessage({{aiorelay: {{token}}}}, origin);
        send(tokens.shift());
        if (tokens.length === 1) send(tokens.shift());
      }});
    </script>"""

    def use():
        with embedded(tmp_path / "chromium", application) as page:
            page.until(lambda: not page.is_seen("#token"))
            page.choose(file)
            page.until_state("Stored")
            assert not page.is_seen("#token")

    await asyncio.to_thread(use)


async def test_the_user_is_asked_if_the_application_gives_no_token(relay, application, file, tmp_path):
    chain = await relay(application.origin)
    application.html = f'<iframe src="{chain.rest1}"></iframe>'

    def use():
        with embedded(tmp_path / "chromium", application) as page:
            page.find("#token-value").send_keys("secret\n")
            page.choose(file)
            page.until_state("Stored")

    await asyncio.to_thread(use)


async def test_a_token_is_taken_from_the_application_only(relay, application, tmp_path):
    chain = await relay(application.origin)
    application.html = f'<iframe src="{chain.rest1}"></iframe>'
    send = """const [source, origin, token] = arguments;
      dispatchEvent(new MessageEvent("message", {source: window[source], origin, data: {aiorelay: {token}}}));"""

    def use():
        with embedded(tmp_path / "chromium", application) as page:
            page.until(lambda: page.is_seen("#link"))  # the last that the script shows
            for source, origin, token in (
                ("parent", OTHER, "secret"),
                ("parent", "null", "secret"),
                ("self", application.origin, "secret"),
                ("self", chain.rest1, "secret"),
                ("parent", application.origin, ""),
                ("parent", application.origin, ["secret"]),
            ):
                page.run(send, source, origin, token)
                assert page.is_seen("#token")
            page.run(send, "parent", application.origin, "secret")
            assert not page.is_seen("#token")

    await asyncio.to_thread(use)


async def test_a_page_of_another_origin_cannot_embed_the_page(relay, application, tmp_path):
    chain = await relay(OTHER)
    application.html = f'<iframe src="{chain.rest1}"></iframe>'

    def use():
        with embedded(tmp_path / "chromium", application) as page:
            assert page.all("#file") == []
            assert any("frame-ancestors" in message for message in page.errors())

    await asyncio.to_thread(use)
