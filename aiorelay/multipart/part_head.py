r"""Read a part's head strictly, write it canonically (RFC 7578, section 4; RFC 2183; the HTML standard).

    b'Content-Disposition: form-data; name=…\r\n…'  ─ read ─▶  Head  ─ write ─▶  the one canonical form

A head that two parsers could read differently is refused: the upload API must read the names that the relay checked.
Pure.
"""

import re
from typing import NamedTuple

from aiorelay.errors import MalformedForm
from aiorelay.files.filenames import last_component
from aiorelay.http.grammar import TOKEN, decode_extended
from aiorelay.multipart.form import Part

__all__ = ["Head", "pad", "read_boundary", "read_disposition", "read_head", "write_head"]

_TOKEN = TOKEN.encode()
# A parameter's value is a token or a quoted string in which a backslash escapes only a quote: browsers used to send
# Windows paths unescaped.
_PARAMETER = re.compile(rb"[ \t]*;[ \t]*(" + _TOKEN + rb")=(?:(" + _TOKEN + rb')|"((?:\\"|[^"])*)")')
_FIELD_LINE = re.compile(rb"(" + _TOKEN + rb"):([^\r\n\0]*)")
# RFC 2046, section 5.1.1: boundary := 0*69<bchars> bcharsnospace
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_BOUNDARY_PARAMETER = re.compile(rb"[ \t]*;[ \t]*(" + _TOKEN + rb')=(?:"([^"\\]*)"|([^\s;",]+))')

_DISPOSITION = "content-disposition"
_TYPE = "content-type"
_LENGTH = "content-length"
_CODING = "content-transfer-encoding"
_SINGLE_FIELDS = frozenset({_DISPOSITION, _TYPE, _LENGTH, _CODING})
_DISPOSITION_PARAMETERS = frozenset({"name", "filename", "filename*"})
# RFC 7578, section 4.7: other codings are deprecated, and parsers disagree on whether to decode them.
_IDENTITY_CODINGS = {b"binary", b"8bit", b"7bit"}
# The charsets in which readers that use the parameter and readers that ignore it find the same names.
_CHARSETS = {b"utf-8", b"us-ascii", b"iso-8859-1"}


class Head(NamedTuple):
    """A parsed part head. The members are those of ``form.Part``; ``size`` is the part's own Content-Length."""

    name: str
    filename: str | None
    media_type: str | None
    size: int | None
    headers: tuple[tuple[str, str], ...]
    faithful: bool


def read_boundary(content_type: str) -> bytes:
    """Return the boundary of a ``multipart/form-data`` Content-Type. Raises ``MalformedForm``."""
    _, semicolon, rest = content_type.encode("utf-8", "surrogateescape").partition(b";")
    values = _parameters(_BOUNDARY_PARAMETER, semicolon + rest)
    if "boundary" not in values:
        raise MalformedForm("The Content-Type names no boundary.")
    boundary = values.pop("boundary")
    if not _BOUNDARY.fullmatch(boundary):
        raise MalformedForm("The boundary is outside the grammar of RFC 2046, section 5.1.1.")
    # Some readers, PHP among them, take what follows the first word "boundary" for the boundary.
    if any(b"boundary" in name.encode() + value.lower() for name, value in values.items()):
        raise MalformedForm("The Content-Type contains the word boundary twice.")
    if values.get("charset", b"utf-8").lower() not in _CHARSETS:
        raise MalformedForm("The charset of a form must be UTF-8, US-ASCII or ISO-8859-1.")
    return boundary


def read_head(raw: bytes) -> Head:
    """Parse a part's head: its lines, without the blank line that ends it. Raises ``MalformedForm``."""
    single: dict[str, bytes] = {}
    headers: list[tuple[str, str]] = []
    for line in raw.split(b"\r\n"):
        key, value = _field_line(line)
        lower = key.lower()
        if lower in single:
            raise MalformedForm(f"A part's head has two {key} lines.")
        if lower in _SINGLE_FIELDS:
            single[lower] = value
        if lower not in {_DISPOSITION, _TYPE}:
            headers.append((key, _text(value)))
    if _DISPOSITION not in single:
        raise MalformedForm("A part has no Content-Disposition.")
    name, filename, faithful = _disposition(single[_DISPOSITION])
    if single.get(_CODING, b"binary").lower() not in _IDENTITY_CODINGS:
        raise MalformedForm(f"The Content-Transfer-Encoding of {name!r} must be binary, 8bit or 7bit.")
    media_type = single.get(_TYPE)
    if media_type is not None and media_type.lower().startswith(b"multipart/"):
        raise MalformedForm(f"The part {name!r} is itself a multipart body; send its files side by side.")
    return Head(
        name=name,
        filename=filename,
        media_type=None if media_type is None else _text(media_type),
        size=_size(name, single.get(_LENGTH)),
        headers=tuple(headers),
        faithful=faithful,
    )


def read_disposition(value: bytes) -> tuple[str | None, bytes]:
    """Read the Content-Disposition of a raw body (RFC 6266) as strictly as that of a part.

    Return the file's name, None without one, and the value to send upstream, in which every reader finds that name.
    Raises ``MalformedForm``.
    """
    kind, semicolon, rest = value.partition(b";")
    values = _parameters(_PARAMETER, semicolon + rest)
    if not re.fullmatch(_TOKEN, kind.strip(b" \t")):
        raise MalformedForm("The disposition type is not a token.")
    if any(name.partition("*")[0] == "filename" and name not in {"filename", "filename*"} for name in values):
        raise MalformedForm("The filename is divided (RFC 2231), which few readers understand.")
    filename, plain = _filename(values.get("filename"), values.get("filename*"))
    if filename is None:
        return None, value
    component = last_component(filename)
    if component in {"", ".", ".."}:
        raise MalformedForm("The filename names no file.")
    if plain and component == filename:
        return filename, value
    return component, kind.strip(b" \t") + f'; filename="{_quote(component)}"'.encode()


def write_head(part: Part) -> bytes:
    """Return the canonical head of a part, with the blank line that ends it.

    Names are UTF-8 and quoted as the HTML standard quotes them ("multipart/form-data encoding algorithm").
    """
    disposition = f'form-data; name="{_quote(part.name)}"'
    if part.filename is not None:
        disposition += f'; filename="{_quote(part.filename)}"'
    lines = [("Content-Disposition", disposition)]
    if part.media_type is not None:
        lines.append(("Content-Type", part.media_type))
    text = "".join(f"{key}: {value}\r\n" for key, value in (*lines, *part.headers))
    return text.encode("utf-8", "surrogateescape") + b"\r\n"


def pad(head: bytes, length: int) -> bytes | None:
    """Pad a canonical head with spaces to ``length`` bytes; None if it is longer.

    The spaces go before the first line's value, where any number is allowed (RFC 9112, section 5).
    """
    if len(head) > length:
        return None
    name, colon, rest = head.partition(b":")
    return name + colon + b" " * (length - len(head)) + rest


def _field_line(line: bytes) -> tuple[str, bytes]:
    match = _FIELD_LINE.fullmatch(line)
    if match is not None:
        return match[1].decode("ascii"), match[2].strip(b" \t")
    if line[:1] in (b" ", b"\t"):
        raise MalformedForm("A part's head has a folded line.")
    if b"\r" in line or b"\n" in line or b"\0" in line:
        raise MalformedForm("A part's head has a bare CR, LF or NUL.")
    raise MalformedForm("A line of a part's head does not begin with a name and a colon.")


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise MalformedForm("A line of a part's head is not UTF-8.") from None


def _size(name: str, value: bytes | None) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise MalformedForm(f"The Content-Length of {name!r} is not a number.")
    return int(value)


def _parameters(grammar: re.Pattern[bytes], rest: bytes) -> dict[str, bytes]:
    """The parameters of a header value by lower-case name; a quoted value is without its quotes."""
    found: dict[str, bytes] = {}
    at, rest = 0, rest.rstrip(b" \t;")
    while at < len(rest):
        match = grammar.match(rest, at)
        if match is None:
            raise MalformedForm('A header of the form has a parameter that is not name=value or name="value".')
        name = match[1].decode("ascii").lower()
        if name in found:
            raise MalformedForm("A header of the form repeats a parameter.")
        found[name] = match[2] or match[3] or b""
        at = match.end()
    return found


def _disposition(value: bytes) -> tuple[str, str | None, bool]:
    """A Content-Disposition's name, its safe filename, and whether every reader finds the same in the bytes."""
    kind, semicolon, rest = value.partition(b";")
    if kind.strip(b" \t").lower() != b"form-data":
        raise MalformedForm("A part's Content-Disposition is not form-data.")
    values = _parameters(_PARAMETER, semicolon + rest)
    others = values.keys() - _DISPOSITION_PARAMETERS
    for parameter in others:
        if parameter.partition("*")[0] in {"name", "filename"}:
            raise MalformedForm(f"The parameter {parameter} is not for forms (RFC 7578, section 4.2).")
    name, name_plain = _name(values.get("name", b""))
    filename, filename_plain = _filename(values.get("filename"), values.get("filename*"))
    # Readers without support for escapes or tabs may find other names in other parameters.
    faithful = not others and b"\t" not in value and name_plain and filename_plain
    if filename:
        component = last_component(filename)
        safe = name if component in {"", ".", ".."} else component
        return name, safe, faithful and safe == filename
    return name, filename, faithful


def _name(raw: bytes) -> tuple[str, bool]:
    plain = raw.replace(b'\\"', b'"')
    if not raw:
        raise MalformedForm("A part has no name.")
    if b"\\" in plain:
        raise MalformedForm("A part's name holds a backslash, which parsers read in two ways.")
    try:
        return plain.decode(), plain == raw
    except UnicodeDecodeError:
        raise MalformedForm("A part's name is not UTF-8.") from None


def _filename(raw: bytes | None, extended: bytes | None) -> tuple[str | None, bool]:
    """The filename, and whether the bytes of ``filename`` alone give the same."""
    literal: str | None = None
    plain = extended is None
    if raw is not None:
        # The HTML standard decodes names with replacement: bytes that are not UTF-8 become U+FFFD.
        literal = raw.replace(b'\\"', b'"').decode("utf-8", "replace")
        plain = raw == literal.encode()
    if extended is None:
        return literal, plain
    intended = _extended(extended)
    # RFC 6266, section 4.3: the extended one counts. The ``filename`` beside it may differ: an approximation in
    # US-ASCII, or the encoded words of .NET and Spring.
    return intended, plain and literal == intended


def _extended(value: bytes) -> str:
    name = decode_extended(value.decode("latin-1"))
    if name is None:
        raise MalformedForm("A part's filename* is outside the grammar of RFC 8187.")
    if "\0" in name:  # to some readers NUL ends the name
        raise MalformedForm("A part's filename* holds NUL.")
    return name


def _quote(name: str) -> str:
    # UTF-8 cannot encode a lone surrogate, which JSON can contain; U+FFFD replaces it.
    whole = name if name.isascii() else name.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
