"""Words: choices, switches, header lines, field names, media types and the names of validators."""

import re
from collections.abc import Callable
from importlib import import_module

from aiorelay.hops import HOP_BY_HOP
from aiorelay.settings.kinds import InvalidValueError, Kind

__all__ = ["FIELD", "HEADER", "MEDIA", "SWITCH", "VALIDATOR", "choice", "find_validator"]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # RFC 9110, section 5.6.2
# No field value holds these (RFC 9110, section 5.5); surrogates are bytes of an argument that were no UTF-8.
_NOT_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
# RFC 6838, section 4.2, or any subtype; an ending may have several dots.
_MEDIA = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/(?:\*|[a-z0-9][a-z0-9!#$&^_.+-]{0,126})", re.ASCII)
_ENDING = re.compile(r"\.[^\s/\\*]+")

# The relay frames its own request: a second opinion on where the body ends, or what it is, breaks it (RFC 9110,
# section 7.6.1, and RFC 9112, section 6).
_OURS = HOP_BY_HOP | {"content-encoding", "content-length", "content-type", "expect"}


def choice(*words: str) -> Kind:
    """One of ``words``, in either case."""

    def accept(value: object) -> str:
        word = value.strip().lower() if isinstance(value, str) else ""
        if word not in words:
            raise InvalidValueError("is not on offer", f"choose {' or '.join(words)}")
        return word

    return Kind("|".join(words), accept)


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word not in ("true", "false"):
        raise InvalidValueError("is neither true nor false", "write true or false")
    return word == "true"


def _header(value: object) -> tuple[str, str]:
    advice = "write it as 'Name: value'"
    if isinstance(value, str):
        name, colon, content = value.partition(":")
        value = (name, content) if colon else None
    match value:
        case (str(name), str(content)) if _TOKEN.fullmatch(name):
            content = content.strip(" \t")
        case _:
            raise InvalidValueError("is not a header line", advice)
    if _NOT_IN_VALUE.search(content):
        raise InvalidValueError("has a control character in its value", advice)
    if name.lower() in _OURS:
        raise InvalidValueError("is a header that the relay sets itself", "leave it out")
    return name, content


def _show_header(header: tuple[str, str]) -> str:
    return ": ".join(header)


def _without_content(line: str) -> str:
    name, colon, _ = line.partition(":")
    return f"{name}: ***" if colon and _TOKEN.fullmatch(name) else "***"


def _field(value: object) -> str:
    # No form could carry the others: clients write a quote in three ways, and a backslash is refused there.
    if not isinstance(value, str) or not value or not value.isprintable() or {"\\", '"'} & set(value):
        raise InvalidValueError("is not a field name", "name the form field that carries the file")
    return value


def _media(value: object) -> str:
    word = value.strip().lower() if isinstance(value, str) else ""
    if not _MEDIA.fullmatch(word) and not _ENDING.fullmatch(word):
        raise InvalidValueError("is neither a media type nor an ending", "try image/*, application/pdf or .csv")
    return word


def _validator(value: object) -> str:
    module, _, name = value.strip().partition(":") if isinstance(value, str) else ("", "", "")
    if not all(word.isidentifier() for word in (*module.split("."), *name.split("."))):
        raise InvalidValueError("does not name a validator", "write it as package.module:name")
    find_validator(f"{module}:{name}")
    return f"{module}:{name}"


def find_validator(name: str) -> Callable[..., object]:
    """Import the callable ``package.module:name``. Raises ``InvalidValueError``, which says which part of the name is wrong."""
    module_name, _, attribute = name.partition(":")
    try:
        found: object = import_module(module_name)
    except ModuleNotFoundError as missing:
        raise InvalidValueError(
            f"needs the module {missing.name}, which is not there", "add its folder to PYTHONPATH"
        ) from missing
    except (Exception, SystemExit) as broken:  # whatever the user's module does, the sentence is owed
        why = " ".join(f"{type(broken).__name__}: {broken}".split())
        raise InvalidValueError(
            f"cannot be imported: {why}", f"see what 'python -c \"import {module_name}\"' says"
        ) from broken
    for step in attribute.split("."):
        if not hasattr(found, step):
            raise InvalidValueError(f"does not exist: {module_name} has no {attribute}", "correct the name")
        found = getattr(found, step)
    if not callable(found):
        raise InvalidValueError("cannot be called", "name a callable that takes a part and returns a validator")
    return found


SWITCH = Kind("true|false", _switch, lambda on: "true" if on else "false")
HEADER = Kind("'NAME: VALUE'", _header, _show_header, mask=_without_content)
FIELD = Kind("NAME", _field)
MEDIA = Kind("TYPE|.ENDING", _media)
VALIDATOR = Kind("MODULE:NAME", _validator)
