"""The OpenAPI description of rest1 is valid, complete and correct."""

import asyncio
import copy
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import aiohttp
import pytest
from aiohttp import web
from openapi_spec_validator import validate

from aiorelay.errors import MissingFile, Problem
from aiorelay.http.authentication import Access
from aiorelay.http.cross_origin import SitePolicy
from aiorelay.http.own_hosts import OwnHosts
from aiorelay.http.problem_details import problem_response
from aiorelay.http.request_body import BodyTimeouts
from aiorelay.multipart.parser import FormLimits
from aiorelay.observability.metrics import Metrics
from aiorelay.rest1.app import Rest1
from aiorelay.rest1.health import Health
from aiorelay.rest1.intake import Intake
from aiorelay.rest1.jobs.registry import State
from aiorelay.rest1.observers import Observers
from aiorelay.rest1.openapi import document
from aiorelay.rest1.request_forms import FormReader
from aiorelay.rest1.resumable.completion import Completion
from aiorelay.rest1.resumable.routes import ResumableRoutes
from aiorelay.rest1.resumable.transfers import SizeLimits
from aiorelay.rest1.routes import RoutedUploads, Routes
from aiorelay.rest1.web.pages import Pages
from aiorelay.server.connections import Connections
from aiorelay.settings import Settings
from aiorelay.webhooks.events import UPLOAD_TYPES

pytestmark = pytest.mark.slow  # it imports openapi-spec-validator

UNUSED: Any = None
"""A dependency that only requests use. No request is sent here."""
RELAY: Any = object()
ROUTES = Settings(route=["/a=http://127.0.0.1:1/", "/b/*=http://127.0.0.1:1/,raw=true"]).route


def app(*, upload_page: bool = True) -> web.Application:
    intake = Intake(Access(), Observers(Metrics()), BodyTimeouts(1, 1), UNUSED, slots=UNUSED, on_piece=lambda: None)
    forms = FormReader(UNUSED, field="somefile", limits=FormLimits(parts=1, fields_size=1))
    pages = Pages("somefile", upload=upload_page, wants_token=False, resumable=True)
    completion = Completion(UNUSED, forms, UNUSED)
    limits = SizeLimits(file=1, form=1)
    resumable = ResumableRoutes(intake, UNUSED, completion, UNUSED, limits, UNUSED, expiry=1)
    sites = SitePolicy(OwnHosts([]), [], proxied=lambda _: False)
    others = Routes(intake, [RoutedUploads(each, RELAY, forms) for each in ROUTES])
    return Rest1(intake, forms, RELAY, UNUSED, pages, resumable, others, sites).app(
        Connections().track, Health(intake, {})
    )


def routes(application: web.Application) -> set[tuple[str, str]]:
    """Return every route by method and path, without assets and the catch-all route."""
    everything = {(route.method, route.resource.canonical) for route in application.router.routes()}
    return {(method, path) for method, path in everything if method != "*" and not path.startswith("/assets/")}


def operations(described: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, item in described["paths"].items() for method in item}


def problem_classes(above: type[Problem] = Problem) -> set[type[Problem]]:
    """Return every problem class of the package that has a code."""
    below = {each for each in above.__subclasses__() if each.__module__.startswith("aiorelay.")}
    return {each for each in below if hasattr(each, "code")}.union(*map(problem_classes, below))


DOCUMENT = document(routes(app()), "somefile", [(each, "somefile") for each in ROUTES])
OPERATIONS = {(method, path): DOCUMENT["paths"][path][method.lower()] for method, path in sorted(operations(DOCUMENT))}
PROBLEM = DOCUMENT["components"]["schemas"]["Problem"]["properties"]


def test_it_is_openapi_3_1():
    validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1.")


@pytest.mark.parametrize("upload_page", [True, False])
def test_every_route_is_described_and_nothing_else(upload_page):
    registered = routes(app(upload_page=upload_page))
    assert operations(document(registered, "somefile", [(each, "somefile") for each in ROUTES])) == registered


def test_its_version_is_that_of_the_package():
    assert DOCUMENT["info"]["version"] == version("aiorelay")


def test_operation_ids_are_unique():
    named = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(set(named)) == len(named)


def test_every_problem_is_described():
    every = problem_classes()
    assert every
    assert set(PROBLEM["type"]["enum"]) == {each.type_uri or f"urn:aiorelay:{each.code}" for each in every}
    assert set(PROBLEM["status"]["enum"]) == {each.status for each in every}
    assert set(PROBLEM["title"]["enum"]) == {each.title for each in every}


def test_every_problem_except_those_of_routing_belongs_to_an_operation():
    met = set()
    for operation in OPERATIONS.values():
        for response in operation["responses"].values():
            schema = response.get("content", {}).get("application/problem+json", {}).get("schema", {})
            for narrowed in schema.get("allOf", []):
                met.update(narrowed.get("properties", {}).get("type", {}).get("enum", []))
    assert set(PROBLEM["type"]["enum"]) - met == {"urn:aiorelay:method-not-allowed"}


def test_a_problem_has_the_members_that_are_rendered():
    rendered = json.loads(problem_response(MissingFile("why"), "id").body)
    assert set(DOCUMENT["components"]["schemas"]["Problem"]["required"]) == set(rendered) == set(PROBLEM)


def test_the_states_of_a_job_are_complete():
    assert DOCUMENT["components"]["schemas"]["Job"]["properties"]["state"]["enum"] == list(get_args(State))


def test_every_event_is_described():
    ends = {f"job.{state}" for state in get_args(State)} - {"job.running"}
    assert DOCUMENT["webhooks"].keys() == {*UPLOAD_TYPES, *ends}
    schemas = DOCUMENT["components"]["schemas"]
    described = {each for name in ("UploadEvent", "JobEvent") for each in schemas[name]["properties"]["type"]["enum"]}
    assert described == DOCUMENT["webhooks"].keys()


def test_operation_ids_of_events_are_unique():
    named = [item["post"]["operationId"] for item in DOCUMENT["webhooks"].values()]
    assert len({*named, *(operation["operationId"] for operation in OPERATIONS.values())}) == len(named) + len(
        OPERATIONS
    )


@pytest.mark.parametrize("name", ["somefile", "attachment"])
def test_files_are_in_the_configured_field(name):
    schemas = document(routes(app()), name)["components"]["schemas"]
    assert schemas["Form"]["required"] == schemas["Ingest"]["required"] == [name]


async def test_the_relay_serves_it(aiorelay_server):
    chain = await aiorelay_server(field="attachment", route=ROUTES)
    async with aiohttp.ClientSession() as session, session.get(f"{chain.rest1}/openapi.json", ssl=chain.tls) as answer:
        assert answer.status == 200
        assert answer.content_type == "application/json"
        assert await answer.json() == document(routes(app()), "attachment", [(each, "somefile") for each in ROUTES])


UNPREDICTABLE = {"Content-Digest", "Repr-Digest", "Upload-Complete"}


def for_a_machine(described: dict[str, Any], file: Path) -> dict[str, Any]:
    """Return the document adapted to a client that sends random values.

    Sources are replaced by an existing file, and ``Prefer`` is often ``respond-async``. Digests, which random bodies
    would not match, raw bodies that may be forms, and resumable uploads, whose offsets follow from earlier answers, are
    removed.
    """
    told = copy.deepcopy(described)
    for path in [path for path in told["paths"] if path.startswith(("/uploads/", "/files"))]:
        del told["paths"][path]
    told["components"]["schemas"]["Source"] = {"enum": [str(file), {"source": str(file), "filename": "a.bin"}]}
    del told["paths"]["/upload/{filename}"]["put"]["requestBody"]["content"]["*/*"]
    preference = {"schema": {"anyOf": [{"const": "respond-async"}, {"type": "string"}]}}
    for item in told["paths"].values():
        for operation in item.values():
            drawn = [each for each in operation["parameters"] if each["name"] not in UNPREDICTABLE]
            operation["parameters"] = [each | preference if each["name"] == "Prefer" else each for each in drawn]
    return told


@pytest.mark.timeout(300)
async def test_the_relay_answers_schemathesis_as_described(aiorelay_server, recorder, tmp_path):
    (root := tmp_path / "root").mkdir()
    (file := root / "a.bin").write_bytes(b"content")
    upstream = await recorder()
    routes = [f"/a={upstream.url}", f"/b/*={upstream.url},raw=true"]
    chain = await aiorelay_server(local_root=[root], route=routes)
    (told := tmp_path / "openapi.json").write_text(json.dumps(for_a_machine(DOCUMENT, file)))
    run = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"),
        "run",
        str(told),
        f"--url={chain.rest1}",
        f"--tls-verify={chain.ca}",
        "--seed=1",
        "--max-examples=10",
        "--generation-database=none",
        "--checks=all",
        "--exclude-checks=use_after_free",  # a cancelled job can still be read
        "--no-color",
        cwd=tmp_path,  # it stores its findings here
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await run.communicate()
    assert run.returncode == 0, said.decode()
    assert chain.stored()
