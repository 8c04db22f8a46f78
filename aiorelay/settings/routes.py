"""Routes: paths at which uploads are accepted for other upload APIs, with checks and limits of their own.

/legacy/*=https://old.example.org/api,field=file,max-size=1MiB      as a flag or a variable
[[route]]  path = …, upstream = …, field = …, max_size = …           as a table of the file

A route has settings of its own by name. Those that it does not set are the relay's, except for those in the group
``upstream``, which may hold another API's secrets: they have their defaults. So has ``icap_ca`` if the route has an
ICAP service of its own.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from aiorelay.settings.kinds import HEADER, SWITCH, InvalidValueError, Kind
from aiorelay.settings.places import UPSTREAM
from aiorelay.settings.setting import Setting

if TYPE_CHECKING:
    from yarl import URL

__all__ = ["ROUTE", "Route", "inherited", "is_per_route"]

# Characters of a path (RFC 3986, section 3.3), without "=", "," and "*". A percent sign must begin an escape.
_PATH = re.compile(r"/(?:[A-Za-z0-9._~!$&'()+;:@/-]|%[0-9A-Fa-f]{2})*\*?", re.ASCII)
_OPTION = re.compile(r",(?=[a-z_-]+=)")
_ADVICE: Final = "write PATH=URL, such as /legacy/*=https://old.example.org/api"
_LIMITS: Final = frozenset({"max_size", "max_parts", "max_fields_size"})
_NOT_ITS_OWN: Final = frozenset({"upstream", "route", "quarantine", "quarantine_max_size", "quarantine_expiry"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A path and the upload API that its uploads are for.

    ``path`` may end in ``/*``: the rest of a request's path is then appended to ``upstream``. If ``raw``, bodies that
    are no forms are passed on as they are. ``tokens`` names who may use the route; empty means everyone whom the relay
    admits. ``own`` are the settings of its own by attribute name, as text or typed.
    """

    path: str
    upstream: "URL"
    raw: bool = False
    tokens: tuple[str, ...] = ()
    own: Mapping[str, object] = field(default_factory=dict, repr=False)

    @property
    def prefix(self) -> str | None:
        """The path without its ``*``, or None if it has none."""
        return self.path[:-1] if self.path.endswith("*") else None


def is_per_route(setting: Setting) -> bool:
    """Whether a route can have a value of its own for a setting."""
    return (setting.group in {"upstream", "checks"} or setting.name in _LIMITS) and setting.name not in _NOT_ITS_OWN


def inherited(settings: Iterable[Setting], own: Collection[str]) -> list[str]:
    """Return the names of the settings that a route takes from the relay; ``own`` are those that it sets."""
    names = {each.name for each in settings if each.group != "upstream"}
    if "icap" in own:  # its CA is that of the other service
        names.discard("icap_ca")
    return sorted(names.difference(own))


def _route(value: object) -> Route:
    match value:
        case Route():
            return value
        case str():
            members = _members(value)
        case Mapping():
            members = {str(name).replace("-", "_"): each for name, each in value.items()}
        case _:
            raise InvalidValueError("is not a route", _ADVICE)
    path, upstream = members.pop("path", None), members.pop("upstream", None)
    if path is None or upstream is None:
        raise InvalidValueError(f"has no {'path' if path is None else 'upstream'}", _ADVICE)
    return Route(
        path=_path(path),
        upstream=_upstream(upstream),
        raw=_raw(members.pop("raw", False)),
        tokens=_names(members.pop("tokens", ())),
        own=MappingProxyType(members),
    )


def _members(text: str) -> dict[str, object]:
    """Return the members of ``PATH=URL,key=value``. A key that is repeated has a list of values."""
    place, *options = _OPTION.split(text.strip())
    path, equals, upstream = place.partition("=")
    if not equals:
        raise InvalidValueError("is not a route", _ADVICE)
    given: dict[str, list[str]] = {}
    for option in options:
        key, _, value = option.partition("=")
        given.setdefault(key.replace("-", "_"), []).append(value)
    members = {key: values[0] if len(values) == 1 else values for key, values in given.items()}
    return {**members, "path": path.strip(), "upstream": upstream.strip()}


def _path(value: object) -> str:
    if not isinstance(value, str) or not _PATH.fullmatch(value) or (value.endswith("*") and value[-2] != "/"):
        raise InvalidValueError(
            f"has the path {value!r}, which is none", "begin it with / and end it with a name or /*"
        )
    if {".", ".."} & set(value.split("/")):
        raise InvalidValueError(f"has the path {value!r} with dot segments", "leave them out")
    return value


def _raw(value: object) -> bool:
    try:
        is_raw: bool = SWITCH.accept(value)
    except InvalidValueError as invalid:
        raise InvalidValueError(f"has a value of raw that {invalid.fault}", invalid.advice) from None
    return is_raw


def _upstream(value: object) -> "URL":
    try:
        url: URL = UPSTREAM.accept(value)
    except InvalidValueError as invalid:
        raise InvalidValueError(f"has an upstream that {invalid.fault}", invalid.advice) from None
    return url


def _names(value: object) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise InvalidValueError("has tokens that are no names", 'write tokens = ["alice", "bob"]')
    return tuple(names)


def _show(route: Route) -> str:
    options = [("raw", "true")] if route.raw else []
    options += [("tokens", name) for name in route.tokens]
    for name, value in route.own.items():
        values: Iterable[Any] = value if isinstance(value, list | tuple) else (value,)
        options += [
            (name.replace("_", "-"), str(each).lower() if isinstance(each, bool) else str(each)) for each in values
        ]
    return ",".join([f"{route.path}={route.upstream}", *(f"{key}={value}" for key, value in options)])


def _mask(text: str) -> str:
    """Mask what can be secret in a route: parts of its URL, and the values of headers."""
    place, *options = _OPTION.split(text)
    path, equals, upstream = place.partition("=")
    shown = [f"{path}{equals}{UPSTREAM.mask(upstream) if UPSTREAM.mask else upstream}"]
    for option in options:
        key, _, value = option.partition("=")
        hides = key.replace("_", "-") == "upstream-header" and HEADER.mask
        shown.append(f"{key}={HEADER.mask(value) if hides and HEADER.mask else value}")
    return ",".join(shown)


# A comma separates routes only before a path, because a route may contain commas.
ROUTE = Kind("PATH=URL", _route, _show, mask=_mask, separator=re.compile(r",(?=\s*/)"))
