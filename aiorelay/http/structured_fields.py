"""Parse structured fields (RFC 9651) with http-sf, without their parameters. Pure."""

from typing import Any

import http_sf

__all__ = ["parse_dictionary", "parse_item"]


def parse_item(value: str) -> Any:
    """The bare item of an Item (RFC 9651, section 3.3). Raises ``ValueError`` for anything else."""
    return _parse(value, "item")[0]


def parse_dictionary(value: str) -> dict[str, Any]:
    """The members of a Dictionary (RFC 9651, section 3.2), empty or not. Of a repeated member the last counts.

    Each is a bare item, or a list if it is an inner list. Raises ``ValueError`` for anything else.
    """
    return {name: member[0] for name, member in _parse(value, "dictionary").items()}


def _parse(value: str, kind: str) -> Any:
    # aiohttp decodes header fields so; a byte that is not ASCII is an error in every structured field.
    return http_sf.parse(value.encode("utf-8", "surrogateescape"), tltype=kind)
