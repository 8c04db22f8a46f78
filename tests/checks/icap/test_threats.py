import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiorelay.checks.icap.threats import find_threat
from aiorelay.checks.verdicts import Verdict

UNNAMED = "a threat that it does not name"
REPORTS = "the ICAP service reports"


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({}, None),
        ({"x-response-info": "clean"}, None),
        ({"x-virus-id": ""}, None),
        ({"x-violations-found": "0"}, None),
        ({"x-infection-found": "Type=0; Resolution=2; Threat=Eicar;"}, Verdict("infected", "Eicar")),
        (
            {"x-infection-found": "Type=0; Resolution=0; Threat=EICAR Test String;"},
            Verdict("infected", "EICAR Test String"),
        ),
        ({"x-infection-found": "threat=Eicar"}, Verdict("infected", "Eicar")),
        ({"x-infection-found": "Type=1; Resolution=2; Threat=Encrypted;"}, Verdict("changed", f"{REPORTS} Encrypted")),
        (
            {"x-infection-found": "Type=2; Resolution=2; Threat=Too deep;"},
            Verdict("unscannable", f"{REPORTS} Too deep"),
        ),
        ({"x-infection-found": "Type=3; Threat=X;"}, Verdict("infected", "X")),
        ({"x-infection-found": ""}, Verdict("infected", UNNAMED)),
        ({"x-infection-found": "?"}, Verdict("infected", UNNAMED)),
        ({"x-infection-found": "Type=0", "x-virus-id": "Eicar"}, Verdict("infected", "Eicar")),
        ({"x-infection-found": "Type=2", "x-virus-id": "Zip bomb"}, Verdict("unscannable", f"{REPORTS} Zip bomb")),
        ({"x-virus-id": "Eicar"}, Verdict("infected", "Eicar")),
        ({"x-virus-name": "Eicar"}, Verdict("infected", "Eicar")),
        ({"x-virus-id": "Bad\x07\x9bName"}, Verdict("infected", "BadName")),
        ({"x-virus-id": "x" * 300}, Verdict("infected", "x" * 200)),
        ({"x-virus-id": "\x07"}, Verdict("infected", UNNAMED)),
        ({"x-violations-found": "1\n-\nEicar\n0\n0"}, Verdict("infected", "Eicar")),
        ({"x-violations-found": "2\na\nFirst\n0\n0\nb\nSecond\n0\n0"}, Verdict("infected", "First")),
        ({"x-violations-found": "1"}, Verdict("infected", UNNAMED)),
        ({"x-violations-found": ""}, Verdict("infected", UNNAMED)),
        ({"x-violations-found": "0", "x-virus-id": "Eicar"}, Verdict("infected", "Eicar")),
    ],
)
def test_the_fields_of_an_answer_name_a_threat(fields: dict[str, str], verdict: Verdict | None) -> None:
    assert find_threat(fields) == verdict


@given(st.text())
def test_an_infection_that_cannot_be_read_is_one(value: str) -> None:
    verdict = find_threat({"x-infection-found": value})
    assert verdict is not None
    assert verdict.outcome != "clean"
    assert verdict.reason.isprintable()
