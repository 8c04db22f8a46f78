"""One relay before three APIs, each at its own path, with its own client and its own limits."""

import re
import shlex
import sys
import zipfile
from pathlib import Path

import aiohttp
import pytest
from peers import run
from processes import FREE_PORTS, started
from real_apis import object_store, package_index, post_policy
from upstream_servers import stored_file

pytestmark = pytest.mark.slow

README = Path(__file__).parent.parent / "README.md"
CSV = b"a,b\r\n1,2\r\n"


@pytest.fixture
async def index(tmp_path):
    async with package_index(tmp_path) as running:
        yield running


@pytest.fixture
async def store(tmp_path):
    async with object_store(tmp_path, "photos") as running:
        yield running


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as session:
        yield session


def wheel(directory, name, padding=0):
    """Make a wheel that an index accepts."""
    path = directory / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", "#" * padding)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return path


async def twine(relay, *files):
    # Not --cert: requests prefers this variable to it.
    command = ("env", f"REQUESTS_CA_BUNDLE={relay.ca}", sys.executable, "-m", "twine", "upload", "--non-interactive")
    access = ("--disable-progress-bar", "--username", "any", "--password", "any")
    return await run(*command, *access, "--repository-url", f"{relay.rest1}/", *map(str, files))


def form(fields, content, name="a.csv", field="file", content_type="text/csv"):
    data = aiohttp.FormData()
    for key, value in fields.items():
        data.add_field(key, value)
    data.add_field(field, content, filename=name, content_type=content_type)
    return data


async def ask(session, relay, method, path, **options):
    url = f"{relay.rest1}{path}"
    async with session.request(method, url, ssl=relay.tls, allow_redirects=False, **options) as answer:
        return answer.status, answer.headers, await answer.text()


async def test_the_relay_of_the_readme(index, store, session, tmp_path):
    (command,) = re.findall(r"scripts/run (--only rest1 [^`]*?--route [^`]*)```", README.read_text())
    for there, here in (
        ("http://127.0.0.1:8080/", index.url),
        ("http://127.0.0.1:8333", store.s3),
        ("http://127.0.0.1:8888", store.filer),
    ):
        assert there in command
        command = command.replace(there, here)
    flags = shlex.split(command.replace("\\\n", " "))
    async with started(f"--state-dir={tmp_path}/state", *FREE_PORTS, *flags) as relay:
        small = wheel(tmp_path, "small")
        status, out, error = await twine(relay, small)
        assert status == 0, (out, error)
        fields = post_policy("photos", "b.csv", most=2000, success_action_status="201")
        assert (await ask(session, relay, "POST", "/photos", data=form(fields, CSV)))[0] == 201
        assert (await ask(session, relay, "PUT", "/files/a.csv", data=CSV))[0] == 201
        assert (await ask(session, relay, "PUT", "/files/a.exe", data=CSV))[0] == 415


async def test_one_relay_before_three_apis(aiorelay_server, upload_api, index, store, session, tmp_path):
    api = await upload_api("uvicorn")
    relay = await aiorelay_server(
        only="rest1",
        route=[
            {"path": "/", "upstream": index.url, "field": "content", "accept": [".whl"], "max_size": "1MiB"},
            {"path": "/photos", "upstream": f"{store.s3}/photos", "field": "file", "max_size": 1000},
            {"path": "/files/*", "upstream": f"{store.filer}/docs", "field": "file", "raw": True, "accept": [".csv"]},
            {"path": "/upload", "upstream": api.url, "max_size": 10},
        ],
    )
    small, large = wheel(tmp_path, "small"), wheel(tmp_path, "large", 2**20)

    status, out, error = await twine(relay, small)
    assert status == 0, (out, error)
    status, out, error = await twine(relay, large)
    assert status != 0
    assert "413" in out + error
    assert [each.name for each in index.packages.iterdir()] == [small.name]

    fields = post_policy("photos", "a/b.csv", most=2000, success_action_status="201")
    status, _, text = await ask(session, relay, "POST", "/photos", data=form(fields, CSV))
    assert status == 201, text
    status, _, text = await ask(session, relay, "POST", "/photos", data=form(fields, bytes(1001)))
    assert (status, "too-large" in text) == (413, True)
    async with session.get(f"{store.filer}/buckets/photos/a/b.csv") as answer:
        assert await answer.read() == CSV

    for method, path, body in (
        ("POST", "/files/by/form/", form({}, CSV)),
        ("PUT", "/files/by/put/a.csv", CSV),
    ):
        status, _, text = await ask(session, relay, method, path, data=body)
        assert status == 201, text
        async with session.get(
            f"{store.filer}/docs/{path.removeprefix('/files/').removesuffix('a.csv')}a.csv"
        ) as answer:
            assert await answer.read() == CSV
    status, _, text = await ask(session, relay, "PUT", "/files/by/put/a.exe", data=CSV)
    assert (status, "type-refused" in text) == (415, True)

    somefile = form({}, b"content", "a.txt", "somefile")
    status, _, text = await ask(session, relay, "POST", "/upload", data=somefile)
    assert status == 200, text
    somefile = form({}, bytes(11), "b.txt", "somefile")
    assert (await ask(session, relay, "POST", "/upload", data=somefile))[0] == 413
    assert api.stored() == [stored_file("a.txt", b"content")]


async def test_the_redirect_of_an_object_store_leads_to_its_public_address(aiorelay_server, store, session):
    relay = await aiorelay_server(
        only="rest1",
        route={
            "path": "/photos",
            "upstream": f"{store.s3}/photos",
            "field": "file",
            "upstream_public": "https://s3.example.org/",
        },
    )
    fields = post_policy("photos", "c.csv", most=1000, success_action_redirect=f"{store.s3}/photos/done.html")
    status, headers, text = await ask(session, relay, "POST", "/photos", data=form(fields, CSV))
    assert status == 303, text
    assert headers["Location"].startswith("https://s3.example.org/photos/done.html?")
    assert "key=c.csv" in headers["Location"]


async def test_an_object_store_never_has_a_refused_file(aiorelay_server, store, session):
    relay = await aiorelay_server(
        only="rest1", route={"path": "/files/*", "upstream": store.filer, "raw": True, "max_size": "1MiB"}
    )

    async def body():
        for _ in range(20):
            yield bytes(2**16)

    status, _, _ = await ask(session, relay, "PUT", "/files/docs/large.bin", data=body())
    assert status == 413
    status, _, _ = await ask(session, relay, "PUT", "/files/docs/small.bin", data=bytes(2**19))
    assert status == 201
    async with session.get(f"{store.filer}/docs/large.bin") as answer:
        assert answer.status == 404
