"""Parse the Prefer header field (RFC 7240). Pure.

Prefer: respond-async, wait=10; foo="a, b"    a list of preferences, each a token, perhaps with a value and parameters
"""

import re
from collections.abc import Iterable

from multidict import CIMultiDict

from aiorelay.http.grammar import QUOTED_STRING, TOKEN, split_list

__all__ = ["remove_preference", "split_preference"]

# RFC 7240, section 2, and RFC 9110, section 5.6: preference = token [ BWS "=" BWS word ] *( OWS ";" [ OWS parameter ] )
_VALUE = rf"(?:[ \t]*=[ \t]*(?:{TOKEN}|{QUOTED_STRING}))?"
_PREFERENCE = re.compile(rf"({TOKEN})({_VALUE})(?:[ \t]*;[ \t]*(?:{TOKEN}{_VALUE})?)*")


def split_preference(name: str, lines: Iterable[str]) -> tuple[bool, list[str]]:
    """Whether the Prefer ``lines`` of a request hold the preference ``name``, and all other preferences as written.

    ``name`` is a token in lower case; it counts only without a value. Of a repeated preference the first counts. A
    malformed element is no preference; it stays among the others.
    """
    elements = [element for line in lines for element in split_list(line)]
    named = [match for element in elements if (match := _PREFERENCE.fullmatch(element)) and match[1].lower() == name]
    if not named or named[0][2].lstrip("= \t") not in {"", '""'}:  # an empty value is none (RFC 7240, section 2)
        return False, elements
    taken = {match.string for match in named}
    return True, [element for element in elements if element not in taken]


def remove_preference(name: str, headers: "CIMultiDict[str]") -> None:
    """Remove the preference ``name``, which the relay has honoured, from a request's ``headers``."""
    _, others = split_preference(name, headers.popall("Prefer", ()))
    if others:
        headers["Prefer"] = ", ".join(others)
