"""How fast bytes must come."""

import asyncio

import pytest
from peers import Client, connected, request

from aiorelay.concurrency.timeouts import MinimumRate


@pytest.mark.parametrize(
    ("notes", "verdicts"),
    [
        ([(59.9, 0)], [True]),
        ([(60.0, 59 * 100)], [False]),
        ([(60.0, 60 * 100)], [True]),
        ([(30.0, 0), (30.0, 6000)], [True, True]),
        ([(30.0, 0), (30.0, 5999)], [True, False]),
        ([(60.0, 6000), (30.0, 0), (30.0, 0)], [True, True, False]),
        ([(0.0, 0)] * 3, [True] * 3),
    ],
)
def test_each_minute_of_waiting_is_averaged(notes, verdicts):
    rate = MinimumRate(100)
    assert [rate.is_met(waited, arrived) for waited, arrived in notes] == verdicts


def test_no_rate_is_too_slow_where_none_is_wanted():
    assert MinimumRate(0).is_met(3600.0, 0)


async def test_an_upload_that_drips_is_refused(aiorelay_server, monkeypatch):
    """The minute is made short: the rule is the same."""
    monkeypatch.setattr(MinimumRate, "WINDOW", 0.2)
    chain = await aiorelay_server(min_rate=1000)

    async def drip(client: Client) -> None:
        while True:
            await client.send(b"x")
            await asyncio.sleep(0.02)

    async with connected(chain.rest1, chain.tls) as client:
        await client.send(request("/upload/a.txt", b"", method="PUT", length=1000, content_type=None))
        dripping = asyncio.create_task(drip(client))
        answer = await client.answer()
        dripping.cancel()
        await asyncio.wait([dripping])
    assert (answer.status, answer.json()["type"]) == (408, "urn:aiorelay:too-slow")
    assert chain.stored() == []
