"""The documents are true: their configurations work, and their lists and links are correct."""

import asyncio
import json
import re
import socket
import ssl
import subprocess
import sys
import tomllib
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import trustme
from peers import eventually
from processes import free_ports, started
from programs import program
from shell import Shell
from yarl import URL

from aiorelay.observability.metrics import Metrics
from aiorelay.settings import SETTINGS, ConfigFile, example, read

pytestmark = pytest.mark.needs("caddy", "curl", "haproxy", "nginx", "systemd-analyze")

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
OURS = ("deploy.md", "scaling.md", "design.md")
UNITS = ("aiorelay.service", "aiorelay@.service")
SITE = "uploads.example.org"


def blocks(page, language):
    """Return the code blocks of one language in a page."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    return [block for _, block in found]


def with_places(text, **places):
    """Return a configuration with the places of the documents replaced by those here; each must occur in it."""
    for here, there in places.items():
        for old, new in there if isinstance(there, list) else [there]:
            assert old in text, f"{here}: {old}"
            text = text.replace(old, str(new))
    return text


# -- what is linked and listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_has_a_target(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        if re.match(r"https?:|mailto:", path):
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}, link


def test_the_readme_links_to_every_page():
    assert {f"docs/{name}" for name in OURS} <= set(re.findall(r"\(([^)\s]+)\)", PAGES[0].read_text()))


def test_the_dashboard_asks_for_metrics_that_exist():
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions += re.findall(r"^\| `(.*?)` \|", (DOCS / "deploy.md").read_text(), re.MULTILINE)
    asked = {name for each in expressions for name in re.findall(r"\b(?:aiorelay|process)_\w+", each)}
    assert len(asked) >= 10
    metrics = Metrics()
    for counter in (metrics.uploads.labels("", ""), metrics.upload_bytes.labels("")):
        counter.inc()
    metrics.upstream_errors.labels("")
    metrics.scanned("clamav", "clean")
    metrics.quarantined("lost")
    metrics.state.called("ping", 0.001, succeeded=False)
    metrics.storage.called("PutObject", 0.001, succeeded=False)
    assert asked <= set(re.findall(r"^(\w+)(?:\{.*\})? ", metrics.render().decode(), re.MULTILINE))


def test_panels_of_the_dashboard_do_not_overlap():
    panels = json.loads((DOCS / "grafana.json").read_text())["panels"]
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


# -- settings


def test_the_example_explains_every_setting():
    named = re.findall(r"^# \S.*\n# .*; default: .*\n#(\w+) = ", example(), re.MULTILINE)
    assert named == list(SETTINGS)


def test_the_example_as_it_is_changes_nothing():
    assert tomllib.loads(example()) == {}


@pytest.mark.parametrize("without", ["client_ca", "listen_unix"])  # which needs TLS, and which has none
def test_the_example_can_be_uncommented(tmp_path, monkeypatch, without):
    (tmp_path / "checks.py").write_text("class CsvHeader: ...")
    monkeypatch.syspath_prepend(tmp_path)
    values = tomllib.loads(re.sub(rf"^#(?=\w)(?!{without} )", "", example(), flags=re.MULTILINE))
    _, origins = read({}, {}, ConfigFile("relay.toml", Path("/etc/aiorelay"), values))
    assert {name for name, origin in origins.items() if origin != "file relay.toml"} == {without}


def test_the_example_shows_defaults_where_they_are_plain():
    values = tomllib.loads(re.sub(r"^#(?=\w)", "", example(), flags=re.MULTILINE))
    for setting in SETTINGS.values():
        if setting.otherwise is None and not setting.repeated:
            assert setting.accept(values[setting.name]) == setting.accept(None)


@pytest.mark.parametrize("block", blocks("deploy.md", "toml"))
def test_settings_in_the_documents_are_accepted(block):
    read({}, {}, ConfigFile("relay.toml", Path("/etc/aiorelay"), tomllib.loads(block)))


# -- shell


@pytest.mark.parametrize("page", OURS)
def test_shell_can_be_parsed(page):
    for block in blocks(page, "sh"):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)


def test_shell_commands_that_need_no_service_work(tmp_path):
    shell = Shell(tmp_path)
    ours = [block for page in OURS for block in blocks(page, "sh") if "scripts/run" in block]
    assert len(ours) == 3
    for block in ours:
        if "scripts/run -" not in block and "curl" in block:
            shell.serve("scripts/run")
            assert '"ready"' in shell.run(block)
            shell.stop()
        elif "curl" in block:
            assert '"ready"' in shell.run(block)
        else:
            assert "max-size = 2GiB  (flag --max-size)" in shell.run(block)


# -- systemd and containers


@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_a_unit(name, tmp_path):
    analyze = program("systemd-analyze")
    # As an instance: systemd-analyze checks little of a template.
    unit = tmp_path / name.replace("@", "@1")
    unit.write_text(with_places((DOCS / name).read_text(), program=("/opt/aiorelay/bin/aiorelay", sys.executable)))
    done = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(re.sub(r"^#(?=(RuntimeDirectory|Group)=)", "", unit.read_text(), flags=re.MULTILINE))
    done = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    security = [analyze, "security", "--no-pager", "--offline=true", unit]
    rated = subprocess.run(security, capture_output=True, text=True, check=False).stdout
    assert float(re.search(r"exposure level for .*: ([0-9.]+)", rated)[1]) <= 1.5  # 0 is the best


def test_the_template_unit_differs_by_the_shared_ports():
    one, many = ((DOCS / name).read_text().splitlines() for name in UNITS)
    assert [line for line in many if line not in one and not line.startswith("#")] == [
        "Description=Upload relay, process %i",
        "Environment=AIORELAY_REUSE_PORT=true",
    ]


def test_a_unit_gives_uploads_their_grace():
    for name in UNITS:
        stop = re.search(r"^TimeoutStopSec=(\d+)s$", (DOCS / name).read_text(), re.MULTILINE)
        assert int(stop[1]) > SETTINGS["grace"].accept(None)


async def test_two_processes_as_the_template_starts_them_share_their_port_and_jobs(tmp_path):
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    store = tmp_path / "store"
    (credentials / "relay.toml").write_text(f"token_file = 'tokens'\nstore = '{store}'\nlocal_root = '{tmp_path}'\n")
    (credentials / "tokens").write_text("alice:secret\n")
    lines = re.findall(r"^Environment=(\w+)=(.*)$", (DOCS / "aiorelay@.service").read_text(), re.MULTILINE)
    env = {name: value.replace("%d", str(credentials)).replace("%S", str(tmp_path)) for name, value in lines}
    ports = free_ports(2)
    env |= {"AIORELAY_REST1_PORT": str(ports[0]), "AIORELAY_REST2_PORT": str(ports[1])}
    async with started("serve", env=env) as one, started("serve", env=env) as other:
        assert one.rest1 == other.rest1
        headers = {"Authorization": "Bearer secret", "Prefer": "respond-async"}
        async with aiohttp.ClientSession(headers=headers) as session:
            source = {"somefile": str(credentials / "relay.toml")}
            async with session.post(f"{one.rest1}/upload2", json=source, ssl=one.tls) as answer:
                assert answer.status == 202
                job = URL(one.rest1).join(URL(answer.headers["Location"]))
            for _ in range(4):  # each on a new connection, to any process
                async with session.get(f"{job}/events", ssl=one.tls, headers={"Connection": "close"}) as answer:
                    assert '"state": "done"' in await answer.text()


def test_the_image_copies_existing_files():
    text = (DOCS / "Containerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert copied
    assert all((ROOT / each).exists() for each in copied)
    for variable in re.findall(r"\b(AIORELAY_\w+)=", text):
        assert variable in {setting.variable for setting in SETTINGS.values()}


# -- proxies


class Proxy:
    """A running proxy, and a client of it at the address 127.0.0.2."""

    def __init__(self, session, port):
        self._session = session
        self._base = URL(f"https://127.0.0.1:{port}")
        self.host = f"{SITE}:{port}"

    async def ask(self, method, path, *, headers=None, **options):
        """Send a request, and return the status, headers and text of the answer."""
        url = self._base.join(URL(path))
        headers = {"Host": self.host, **(headers or {})}
        async with self._session.request(method, url, headers=headers, server_hostname=SITE, **options) as answer:
            return answer.status, answer.headers, await answer.text()

    async def upload(self, path="/upload1", **options):
        form = aiohttp.FormData()
        form.add_field("somefile", b"content", filename="a.txt")
        return await self.ask("POST", path, data=form, **options)


@pytest.fixture
async def run(tmp_path):
    """A function that starts a proxy from its command and port, and waits until it listens."""
    authority = trustme.CA()
    certificate = authority.issue_cert(SITE)
    authority.cert_pem.write_to_path(tmp_path / "site-ca.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "site.key")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "site.pem")
    context = ssl.create_default_context(cafile=str(tmp_path / "site-ca.pem"))

    @asynccontextmanager
    async def proxy(command, port):
        log = tmp_path / "proxy.log"
        with log.open("wb") as said:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=said, stderr=said, cwd=tmp_path
            )
        try:
            await eventually(lambda: process.returncode is not None or is_listening(port))
            assert process.returncode is None, log.read_text()
            # A new connection for each request, so that the proxy chooses a machine each time.
            connector = aiohttp.TCPConnector(ssl=context, local_addr=("127.0.0.2", 0), force_close=True)
            async with aiohttp.ClientSession(connector=connector) as session:
                yield Proxy(session, port)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()

    async with AsyncExitStack() as stack:

        async def start(command, port):
            return await stack.enter_async_context(proxy(command, port))

        yield start


def is_listening(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def nginx(tmp_path, site, port):
    """Return the command that runs nginx with ``site`` in one process, apart from the system's nginx."""
    site = with_places(
        site,
        port=("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        certificate=(f"/etc/ssl/{SITE}.crt", tmp_path / "site.pem"),
        key=(f"/etc/ssl/private/{SITE}.key", tmp_path / "site.key"),
    )
    temporary = "".join(
        f"{each}_temp_path {tmp_path}/{each};\n" for each in ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
    )
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"daemon off;\nmaster_process off;\npid {tmp_path}/nginx.pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{site}}}\n"
    )
    return [program("nginx"), "-p", str(tmp_path), "-e", "stderr", "-c", str(config)]


def caddy(tmp_path, site, port):
    site = with_places(
        site, certificate=(f"{SITE} {{", f"https://{SITE}:{port} {{\n\ttls {tmp_path}/site.pem {tmp_path}/site.key")
    )
    config = tmp_path / "Caddyfile"
    config.write_text(f"{{\n\tadmin off\n\tauto_https off\n}}\n{site}")
    home = [f"{name}={tmp_path}" for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")]
    return ["env", *home, program("caddy"), "run", "--adapter", "caddyfile", "--config", str(config)]


def haproxy(tmp_path, text, port):
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        with_places(
            text,
            port=("bind :443", f"bind 127.0.0.1:{port}"),
            certificate=(f"/etc/haproxy/{SITE}.pem", tmp_path / "site.pem"),
        )
    )
    return [program("haproxy"), "-db", "-f", str(config)]


def below_a_path(page, language):
    """Return the configuration of a proxy with the block for a path in its place."""
    whole, part = blocks(page, language)[:2]
    begin = whole.index("    location / {" if language == "nginx" else "\treverse_proxy")
    return f"{whole[:begin]}{part}}}\n"


PROXIES = {"nginx": nginx, "caddy": caddy, "haproxy": haproxy}


@pytest.fixture(params=["nginx", "caddy", "nginx on a port", "caddy on a port"])
async def in_front(request, run, aiorelay_server, tmp_path):
    """A factory of a relay with a proxy of deploy.md in front; ``path`` selects the configuration below a path.

    The relay is on a Unix socket, or on a port without TLS.
    """
    name, _, on_port = request.param.partition(" ")
    written = {"nginx": "unix:/run/aiorelay/rest1.sock", "caddy": "unix//run/aiorelay/rest1.sock"}[name]

    async def start(*, path=False, **settings):
        text = below_a_path("deploy.md", name) if path else blocks("deploy.md", name)[0]
        if on_port:
            chain = await aiorelay_server(tls=False, trusted_proxy=["127.0.0.1"], **settings)
            place = URL(chain.rest1).authority
        else:
            chain = await aiorelay_server(listen_unix=tmp_path / "rest1.sock", listen_unix_mode="666", **settings)
            place = written.replace("/run/aiorelay", str(tmp_path))
        (port,) = free_ports(1)
        return chain, await run(PROXIES[name](tmp_path, with_places(text, relay=(written, place)), port), port)

    return start


async def test_a_proxy_passes_uploads_and_the_clients_address_on(in_front, caplog):
    chain, proxy = await in_front()
    caplog.set_level("INFO", "aiorelay")
    lies = {"Forwarded": "for=192.0.2.1", "X-Forwarded-For": "192.0.2.1"}
    status, _, text = await proxy.upload(headers=lies)
    assert status == 200, text
    assert [each.name for each in chain.stored()] == ["a.txt"]
    (upload,) = [record.members for record in caplog.records if hasattr(record, "members")]
    assert upload["client"] == "127.0.0.2"


@pytest.mark.parametrize("path", [False, True], ids=["own name", "below a path"])
async def test_a_resumable_upload_passes_a_proxy(in_front, path):
    chain, proxy = await in_front(path=path)
    prefix = "/files" if path else ""
    status, headers, _ = await proxy.ask("PUT", f"{prefix}/upload/a.txt", headers={"Upload-Complete": "?0"})
    location = URL(headers["Location"])
    assert status == 201
    assert (location.host, location.path.rpartition("/")[0]) == (SITE, f"{prefix}/uploads")
    append = {"Content-Type": "application/partial-upload", "Upload-Offset": "0", "Upload-Complete": "?1"}
    status, _, _ = await proxy.ask("PATCH", location.path, headers=append, data=b"content")
    assert status == 200
    assert [each.read_bytes() for each in chain.stored()] == [b"content"]


async def test_a_proxy_names_scheme_and_host_of_the_client(in_front):
    _, proxy = await in_front()
    lies = {"X-Forwarded-Proto": "gopher", "X-Forwarded-Host": "other.example", "X-Forwarded-Prefix": "/other"}
    creation = {"Tus-Resumable": "1.0.0", "Upload-Length": "7"}
    status, headers, _ = await proxy.ask("POST", "/files/", headers=creation | lies)
    assert status == 201
    assert headers["Location"].startswith(f"https://{proxy.host}/files/")


@pytest.mark.parametrize(
    "in_front", ["nginx", "nginx on a port"], indirect=True
)  # Caddy may close the connection first, as deploy.md says
async def test_a_refusal_passes_a_proxy_while_the_client_still_sends(in_front):
    _, proxy = await in_front(max_size="1MiB")
    sent = 0

    async def body():
        nonlocal sent
        while sent < 2**30:
            sent += 2**16
            yield bytes(2**16)
            await asyncio.sleep(0)

    status, headers, _ = await proxy.ask("PUT", "/upload/a.bin", data=body())
    assert status == 413
    assert headers["Content-Type"] == "application/problem+json"
    assert sent < 2**30


async def test_everything_works_below_a_path(in_front, tmp_path):
    chain, proxy = await in_front(path=True, local_root=[tmp_path])
    (tmp_path / "b.txt").write_bytes(b"content")
    status, _, page = await proxy.ask("GET", "/files/")
    assert status == 200
    for link in re.findall(r'(?:src|href)="([^":]+)"', page):
        assert (await proxy.ask("GET", f"/files/{link}"))[0] == 200
    assert (await proxy.upload("/files/upload1"))[0] == 200
    status, headers, _ = await proxy.ask(
        "POST", "/files/upload2", json={"somefile": str(tmp_path / "b.txt")}, headers={"Prefer": "respond-async"}
    )
    assert status == 202
    assert headers["Location"].startswith("/files/jobs/")
    _, _, events = await proxy.ask("GET", f"{headers['Location']}/events")
    assert '"state": "done"' in events
    assert {each.name for each in chain.stored()} == {"a.txt", "b.txt"}


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
async def test_machines_behind_a_balancer_share_uploads_and_their_jobs_are_found(name, run, aiorelay_server, tmp_path):
    machines = [
        await aiorelay_server(
            tls_name=["relay.internal", "localhost"],
            state_dir=tmp_path / each,
            local_root=[tmp_path],
            trusted_proxy=["127.0.0.1"],
        )
        for each in ("one", "two")
    ]
    both = tmp_path / "relays-ca.pem"
    both.write_text("".join(each.ca.read_text() for each in machines))
    (tmp_path / "b.txt").write_bytes(b"content")
    (port,) = free_ports(1)
    addresses = zip(("192.0.2.11:8000", "192.0.2.12:8000"), machines, strict=True)
    (text,) = blocks("scaling.md", name)
    text = with_places(
        text,
        relays=[(there, URL(here.rest1).authority) for there, here in addresses],
        ca=("/etc/aiorelay/relays-ca.pem", both),
    )
    proxy = await run(PROXIES[name](tmp_path, text, port), port)
    locations = []
    for _ in range(4):
        status, headers, _ = await proxy.ask(
            "POST", "/upload2", json={"somefile": str(tmp_path / "b.txt")}, headers={"Prefer": "respond-async"}
        )
        assert status == 202
        locations.append(headers["Location"])
    for location in locations:
        for _ in range(2):  # any machine may be asked first
            status, _, events = await proxy.ask("GET", f"{location}/events")
            assert (status, '"state": "done"' in events) == (200, True)
            assert (await proxy.ask("DELETE", location))[0] == 200
    assert (await proxy.ask("GET", "/jobs/none"))[0] == 404
    assert all(machine.stored() for machine in machines)
