from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiorelay.checks.icap.answers import Head, MalformedAnswer
from aiorelay.checks.icap.options import MAX_PREVIEW, ServiceOptions, read_options


def options(status: int = 200, **fields: str) -> ServiceOptions:
    named = {name.replace("_", "-"): value for name, value in {"methods": "RESPMOD", **fields}.items()}
    return read_options(Head(status, "", named))


@pytest.mark.parametrize(
    ("methods", "method"),
    [
        ("REQMOD", "REQMOD"),
        ("RESPMOD", "RESPMOD"),
        ("reqmod", "REQMOD"),
        ("REQMOD, RESPMOD", "RESPMOD"),
        ("RESPMOD,REQMOD,OPTIONS", "RESPMOD"),
    ],
)
def test_the_method_is_the_services(methods: str, method: str) -> None:
    assert options(methods=methods).method == method


@pytest.mark.parametrize("methods", ["", "OPTIONS", "REQMODE", "REQMOD RESPMOD"])
def test_a_service_without_a_method_is_none(methods: str) -> None:
    with pytest.raises(MalformedAnswer, match="neither RESPMOD nor REQMOD"):
        options(methods=methods)


@pytest.mark.parametrize("status", [100, 204, 302, 403, 404, 500, 503])
def test_any_status_but_200_offers_no_service(status: int) -> None:
    with pytest.raises(MalformedAnswer, match=str(status)):
        options(status)


@pytest.mark.parametrize(
    ("fields", "filename", "preview"),
    [
        ({}, "a.bin", None),
        ({"preview": "0"}, "a.bin", 0),
        ({"preview": "1024"}, "a.bin", 1024),
        ({"preview": "1024"}, "", 1024),
        ({"preview": str(MAX_PREVIEW)}, "a.bin", MAX_PREVIEW),
        ({"preview": str(MAX_PREVIEW + 1)}, "a.bin", MAX_PREVIEW),
        ({"preview": "-1"}, "a.bin", None),
        ({"preview": "1k"}, "a.bin", None),
        ({"preview": "99999999999"}, "a.bin", None),
        ({"preview": "9", "transfer_preview": "*"}, "a.bin", 9),
        ({"preview": "9", "transfer_complete": "*"}, "a.bin", None),
        ({"transfer_preview": "*"}, "a.bin", None),
        ({"preview": "9", "transfer_preview": "*", "transfer_complete": "exe, COM"}, "a.exe", None),
        ({"preview": "9", "transfer_preview": "*", "transfer_complete": "exe, COM"}, "A.com", None),
        ({"preview": "9", "transfer_preview": "*", "transfer_complete": ".exe"}, "a.b.EXE", None),
        ({"preview": "9", "transfer_preview": "*", "transfer_complete": "exe"}, "exe", 9),
        ({"preview": "9", "transfer_preview": "*", "transfer_complete": "exe"}, "a.exe.txt", 9),
        ({"preview": "9", "transfer_preview": "txt", "transfer_complete": "*"}, "a.txt", 9),
        ({"preview": "9", "transfer_preview": "txt", "transfer_complete": "*"}, "a.bin", None),
        ({"preview": "9", "transfer_ignore": "gif", "transfer_complete": "*"}, "a.gif", 9),
        ({"preview": "9", "transfer_ignore": "gif", "transfer_complete": "gif"}, "a.gif", 9),
        ({"preview": "9", "transfer_ignore": "*", "transfer_complete": "*"}, "a.bin", 9),
    ],
)
def test_the_preview_depends_on_the_ending(fields: dict[str, str], filename: str, preview: int | None) -> None:
    assert options(**fields).preview_of(filename) == preview


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"allow": "204"}, "allow_204", True),
        ({"allow": "206, 204"}, "allow_204", True),
        ({"allow": "206"}, "allow_204", False),
        ({"allow": "2040"}, "allow_204", False),
        ({}, "allow_204", False),
        ({"max_connections": "7"}, "max_connections", 7),
        ({"max_connections": "0"}, "max_connections", None),
        ({"max_connections": "many"}, "max_connections", None),
        ({"options_ttl": "60"}, "ttl", 60),
        ({"options_ttl": "0"}, "ttl", 0),
        ({"options_ttl": "999999999"}, "ttl", 24 * 3600),
        ({"options_ttl": "soon"}, "ttl", 3600),
        ({"istag": '"x"'}, "istag", '"x"'),
        ({}, "istag", None),
    ],
)
def test_other_options(fields: dict[str, str], name: str, value: Any) -> None:
    assert getattr(options(**fields), name) == value


@given(st.dictionaries(st.sampled_from(["preview", "options_ttl", "max_connections", "transfer_complete"]), st.text()))
def test_any_fields_are_options(fields: dict[str, str]) -> None:
    found = options(**fields)
    assert found.preview is None or 0 <= found.preview <= MAX_PREVIEW
    assert 0 <= found.ttl <= 24 * 3600
