"""Parse the Prefer header field (RFC 7240). Pure.

Prefer: respond-async, wait=10; foo="a, b"    a list of preferences, each a token, perhaps with a value and parameters
"""

import re
from collections.abc import Iterable

from multidict import CIMultiDict

__all__ = ["remove_preference", "split_preference"]

# RFC 7240, section 2, and RFC 9110, section 5.6: preference = token [ BWS "=" BWS word ] *( OWS ";" [ OWS parameter ] )
_NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_VALUE = rf"(?:[ \t]*=[ \t]*(?:{_NAME}|{_QUOTED}))?"
_PREFERENCE = re.compile(rf"({_NAME})({_VALUE})(?:[ \t]*;[ \t]*(?:{_NAME}{_VALUE})?)*")
_ELEMENTS = re.compile(rf'(?:[^,"]|{_QUOTED})+')
_LIST = re.compile(rf'(?:[^"]|{_QUOTED})*')


def split_preference(name: str, lines: Iterable[str]) -> tuple[bool, list[str]]:
    """Whether the Prefer lines of a request hold the preference ``name``, and all others as they were written.

    ``name`` is a lower-case token that has no value. Of a preference that is repeated only the first counts. What is
    malformed expresses no preference, and stays among the others.
    """
    elements = [element for line in lines for element in _elements(line)]
    named = [match for element in elements if (match := _PREFERENCE.fullmatch(element)) and match[1].lower() == name]
    if not named or named[0][2].lstrip("= \t") not in {"", '""'}:  # an empty value is none (RFC 7240, section 2)
        return False, elements
    taken = {match.string for match in named}
    return True, [element for element in elements if element not in taken]


def remove_preference(name: str, headers: "CIMultiDict[str]") -> None:
    """Take the preference ``name`` out of a request's ``headers``, for it has been honoured here."""
    _, others = split_preference(name, headers.popall("Prefer", ()))
    if others:
        headers["Prefer"] = ", ".join(others)


def _elements(line: str) -> list[str]:
    if not _LIST.fullmatch(line):  # a quote that does not end: nobody knows where the next preference begins
        return [line]
    return [element for each in _ELEMENTS.findall(line) if (element := each.strip(" \t"))]
