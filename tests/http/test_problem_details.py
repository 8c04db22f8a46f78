"""What a handler raises, and what its client is told."""

from typing import NoReturn

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from aiorelay.errors import OffsetMismatch
from aiorelay.http.problem_details import problem_middleware


@pytest.fixture
async def client():
    async def fail(_request: web.Request) -> NoReturn:
        raise ValueError("a secret")

    async def mismatch(_request: web.Request) -> NoReturn:
        raise OffsetMismatch("It goes on at 5.", offset=5, provided=7)

    app = web.Application(middlewares=[problem_middleware])
    app.router.add_get("/fail", fail)
    app.router.add_get("/mismatch", mismatch)
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_unexpected_exception_is_logged_and_not_told(client, caplog):
    answer = await client.get("/fail")
    assert (answer.status, (await answer.json())["type"]) == (500, "urn:aiorelay:internal")
    assert "secret" not in await answer.text()
    assert "Unexpected failure of GET /fail" in caplog.messages


async def test_problem_of_a_registered_type_has_its_members(client):
    problem = await (await client.get("/mismatch")).json()
    assert problem["type"] == "https://iana.org/assignments/http-problem-types#mismatching-upload-offset"
    assert (problem["expected-offset"], problem["provided-offset"]) == (5, 7)


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/other", 404), ("DELETE", "/fail", 405)])
async def test_what_leads_nowhere_is_a_problem(client, method, path, status):
    answer = await client.request(method, path)
    assert (answer.status, answer.content_type) == (status, "application/problem+json")
