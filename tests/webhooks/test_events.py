"""Which event an upload has."""

import json

import pytest

from aiorelay.errors import Busy, Infected, RateLimited, ScannerUnavailable, Unauthenticated, UpstreamFailed
from aiorelay.observability.logs import UploadRecord
from aiorelay.webhooks.events import job_event, upload_event, upload_type


def record() -> UploadRecord:
    return UploadRecord("/upload1", "127.0.0.1")


ENDS = {
    "stored": (lambda each: each.answered(200, stored=True), "upload.stored"),
    "stored by a redirect": (lambda each: each.answered(303, stored=True), "upload.stored"),
    "redirect": (lambda each: each.answered(302, stored=False), "upload.refused"),
    "refused by the API": (lambda each: each.answered(499, stored=False), "upload.refused"),
    "failed in the API": (lambda each: each.answered(500, stored=False), "upload.failed"),
    "infected": (lambda each: each.failed(Infected("")), "upload.refused"),
    "no scanner": (lambda each: each.failed(ScannerUnavailable("")), "upload.failed"),
    "no API": (lambda each: each.failed(UpstreamFailed("", error="x")), "upload.failed"),
    "client left": (lambda _: None, "upload.failed"),
    "unfinished": (lambda each: each.unfinished(201), None),
    "repeated": (lambda each: each.repeated(200), None),
    "no token": (lambda each: each.failed(Unauthenticated("")), None),
    "too often": (lambda each: each.failed(RateLimited("", retry_after=1)), None),
    "busy": (lambda each: each.failed(Busy("")), None),
}


@pytest.mark.parametrize(("end", "kind"), ENDS.values(), ids=ENDS)
def test_the_end_of_an_upload_has_a_type(end, kind):
    ended = record()
    end(ended)
    assert upload_type(ended) == kind


@pytest.mark.parametrize("end", [end for end, _ in ENDS.values()], ids=ENDS)
def test_an_upload_that_can_continue_has_no_event(end):
    unfinished = record()
    unfinished.continues = True
    end(unfinished)
    assert upload_event(unfinished, "id") is None


def test_each_event_has_an_id_of_its_own():
    assert upload_event(record(), "id").id != upload_event(record(), "id").id


def test_the_end_of_a_job_has_always_the_same_id():
    job = dict.fromkeys(("received", "forwarded", "total", "answer", "problem"))
    ends = [job | {"id": "a", "state": state} for state in ("lost", "lost", "done")]
    ids = [job_event(each, who=None, request_id=None).id for each in ends]
    assert ids == ["msg_a_lost", "msg_a_lost", "msg_a_done"]


def test_of_the_upload_apis_answer_a_job_tells_the_status_only():
    answer = {"status": 201, "headers": [["Set-Cookie", "s3cret"]], "body": "s3cret"}
    job = {"id": "a", "state": "done", "received": 1, "forwarded": 2, "total": 1, "answer": answer, "problem": None}
    body = job_event(job, who="alice", request_id="r").body
    assert b"s3cret" not in body
    assert json.loads(body)["data"] == {
        "request_id": "r",
        "id": "a",
        "who": "alice",
        "state": "done",
        "received": 1,
        "forwarded": 2,
        "total": 1,
        "status": 201,
        "problem": None,
    }
