"""Detect the type of a text: markup, scripts, JSON or plain text."""

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE, getincrementaldecoder

__all__ = ["NAMES", "PLAIN", "XML", "text_type"]

PLAIN = "text/plain"
XML = "text/xml"

# What may precede the root of an XML document (XML 1.0, section 2.8), except the doctype of HTML.
_PROLOGUE = r"(?>\s++|<!--.*?-->|<\?xml\b.*?\?>|<!doctype\s++(?!html\b)[^\[>]*+(?>\[.*?\]\s*+)?>)*+"
# The tags by which browsers detect HTML (WHATWG MIME Sniffing, section 7.1), and some more with which pages begin.
_TAGS = "head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p|img|form|meta|link|object|embed"
# Only tokens of RFC 8259; the last one may be truncated.
_JSON = (
    r"[{\[](?>[\s{}\[\],:]++|\"(?>[^\"\\\x00-\x1f]|\\.)*+\"|-?\d++(?>\.\d++)?(?>e[+-]?\d++)?(?![\w.])"
    r"|(?:true|false|null)\b)*+(?:\"(?>[^\"\\\x00-\x1f]|\\.)*+\\?|-?[\d.e+-]{0,40}|tr?u?|fa?l?s?|nu?l?)\Z"
)

# Matched at the first character that is not white space, in this order.
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), name)
    for pattern, name in (
        (r"#!\s*/[^\n]*?\bphp[\d.]*(?:\s|\Z)", "text/x-php"),
        (r"#!\s*/", "text/x-shellscript"),
        (r"<\?(?:php\b|=)", "text/x-php"),
        (_PROLOGUE + r"<(?:[\w.-]+:)?svg[\s/>]", "image/svg+xml"),
        (_PROLOGUE + rf"<(?:!doctype\s+html\b|(?:[\w.-]+:)?html[\s/>]|(?:{_TAGS})[\s/>])", "text/html"),
        (r"<\?xml\b", XML),
        (r"<!--", "text/html"),  # browsers treat any other text after a comment as HTML
        (_JSON, "application/json"),
    )
)

NAMES = frozenset(name for _, name in _PATTERNS)

_SPACE = "\t\n\f\r "
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")  # binary data bytes (WHATWG MIME Sniffing, section 3)

# UTF-32-LE before UTF-16-LE: its mark begins with that of UTF-16-LE.
_BYTE_ORDER_MARKS: tuple[tuple[bytes, str], ...] = (
    (BOM_UTF8, "utf-8"),
    (BOM_UTF32_LE, "utf-32-le"),
    (BOM_UTF32_BE, "utf-32-be"),
    (BOM_UTF16_LE, "utf-16-le"),
    (BOM_UTF16_BE, "utf-16-be"),
)


def text_type(head: bytes, *, cut: bool) -> str | None:
    """Return the media type of a text that begins with ``head``, or None if it is not text.

    Text is UTF-8, or UTF-16 or UTF-32 with a byte order mark, without control characters. Markup is detected even if
    ``head`` has invalid bytes, so that they do not hide it. ``cut``: the file is longer than ``head``.
    """
    mark, encoding = next((found for found in _BYTE_ORDER_MARKS if head.startswith(found[0])), (b"", "utf-8"))
    body = head.removeprefix(mark)
    begin = body.decode(encoding, "replace").lstrip(_SPACE)
    for pattern, name in _PATTERNS:
        if pattern.match(begin):
            return name
    try:
        text = getincrementaldecoder(encoding)().decode(body, final=not cut)
    except UnicodeDecodeError:
        return None
    return None if _CONTROLS.search(text) else PLAIN
