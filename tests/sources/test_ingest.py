"""JSON requests: valid and invalid member names."""

import json

import pytest

from aiorelay.errors import BadSource
from aiorelay.sources.ingest import read_ingest


@pytest.mark.parametrize("name", ["", "a\\", "a\\b", "a\0b"])
def test_a_member_with_an_ambiguous_field_name_is_refused(name):
    with pytest.raises(BadSource, match="name of a form field"):
        read_ingest(json.dumps({"somefile": "/a", name: "x"}).encode(), "somefile")


@pytest.mark.parametrize("name", ["a", 'q"', "a\nb", "größe", "a/b", " "])
def test_any_other_member_becomes_a_field(name):
    assert read_ingest(json.dumps({"somefile": "/a", name: "x"}).encode(), "somefile").fields == ((name, "x"),)
