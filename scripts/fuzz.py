"""Fuzz the form parser, the framing, and other readers of the framed form.

An input is a few bytes of options, then a body. For every body:

- the parser returns a form or a 4xx problem, independent of the block sizes;
- a framed form has the promised length, and the parser and every other reader find the same parts in it;
- a malformed form is not framed completely.
"""

import importlib
import re
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

_ROOT = Path(__file__).resolve().parent.parent
# Imported by name: it is not installed where mypy runs, and has no types.
_atheris: Any = importlib.import_module("atheris")

with _atheris.instrument_imports(include=["aiorelay"]):
    from aiorelay.errors import Problem
    from aiorelay.multipart.form import Form
    from aiorelay.multipart.framing import frame
    from aiorelay.multipart.parser import FormLimits, read_form

sys.path.insert(0, str(_ROOT / "tests"))
_READERS: Sequence[Callable[[bytes, bytes], list[Any]]] = importlib.import_module("multipart_readers").READERS

_T = TypeVar("_T")
_Read = list[tuple[str, str | None, str | None, bytes]]

_BOUNDARY = b"bound"
_LIMITS = FormLimits(parts=8, fields_size=2048)
_FILE = b'Content-Disposition: form-data; name="somefile"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\n'
_FIELD = b'Content-Disposition: form-data; name="a"\r\n\r\n'
# The number of option bytes: whether the length is known, and the block sizes.
_OPTIONS = 4
_SEEDS = (
    b"",
    b"--bound--",
    b"--bound\r\n" + _FILE + b"content\r\n--bound--\r\n",
    b"--bound\r\n" + _FIELD + b"1\r\n--bound\r\n" + _FILE + b"content\r\n--bound\r\n" + _FIELD + b"2\r\n--bound--\r\n",
    b"--bound\r\nX: y\r\ncontent-disposition:form-data;name=a;filename*=utf-8''%41\r\n\r\nabc\r\n--bound--",
)
_WORDS = (
    *(
        b"\r\n",
        b"\n--bound",
        b"\r\n--bound",
        b"--bound",
        b"--bound--",
        b"\r\n\r\n",
        b"\r",
        b'\\"',
        b"%22",
        b"; ",
        b"\t",
    ),
    *(
        b"Content-Disposition: form-data",
        b'; name="',
        b"; name=",
        b'; filename="',
        b"; filename*=UTF-8''",
        b"iso-8859-1''",
    ),
    *(
        b"Content-Type: ",
        b"multipart/mixed",
        b"Content-Length: ",
        b"Content-Transfer-Encoding: ",
        b"binary",
        b"=?utf-8?b?",
    ),
    *(b"\xc3\xa4", b"\xff", b"\x00", b"\x85", b"\xe2\x80\xa8", b"../", b"C:\\", b"name*0=", b"_charset_"),
)


def main() -> None:
    """Fuzz for a number of seconds, or run one input."""
    keep = _ROOT / "build" / "fuzz"
    corpus = keep / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, body in enumerate(_SEEDS):
        (corpus / f"seed-{number}").write_bytes(bytes(_OPTIONS) + body)
    words = keep / "words"
    words.write_text("".join('"' + re.sub("..", r"\\x\g<0>", word.hex()) + '"\n' for word in _WORDS))
    (given,) = sys.argv[1:]
    how = [f"-max_total_time={given}", str(corpus)] if given.isdigit() else [given]
    _atheris.Setup([sys.argv[0], f"-dict={words}", f"-artifact_prefix={keep}/", "-max_len=2048", *how], check)
    _atheris.Fuzz()


def check(data: bytes) -> None:
    """Check one input."""
    how, body = data[:_OPTIONS], data[_OPTIONS:]
    sizes = [size % 40 or len(body) for size in how[1:]] or [1]
    knows_length = bool(how[:1]) and how[0] % 2 == 1
    read = _outcome(_parts(_form(_cut(body, sizes))))
    _must(read == _outcome(_parts(_form([body]))), "the result depends on the block sizes")
    sent = _outcome(_framed(_form(_cut(body, sizes), len(body) if knows_length else None)))
    if isinstance(read, _Refused):
        _must(isinstance(sent, _Refused), "a malformed form was sent completely")
    elif isinstance(sent, _Refused):
        late_head = knows_length and "cannot be rewritten" in sent.detail
        _must(late_head or not read, f"a form was not sent: {sent}")
    elif read:
        _compare(read, sent)


def _compare(read: _Read, sent: bytes) -> None:
    wanted = [(_quoted(name), _quoted(filename), *rest) for name, filename, *rest in read]
    _must((found := _run(_parts(_form([sent])))) == wanted, f"{read} came out as {found}")
    for reader in _READERS:
        try:
            found = reader(_BOUNDARY, sent)
        except Exception:  # noqa: BLE001, S112 - any refusal by another reader is safe
            continue
        _must(_alike(found) == _alike(read), f"{read} is {found} for {reader.__name__}")


def _must(holds: bool, what: str) -> None:  # noqa: FBT001 - the condition to check
    if not holds:
        raise AssertionError(what)


@dataclass(frozen=True)
class _Refused:
    """A problem, comparable by value."""

    code: str
    detail: str


def _outcome(work: Coroutine[Any, Any, _T]) -> _T | _Refused:
    """Return the result of ``work`` or its 4xx problem. Any other exception is a finding."""
    try:
        return _run(work)
    except Problem as problem:
        _must(400 <= problem.status < 500, f"it was refused with {problem.status}")
        return _Refused(problem.code, problem.detail)


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that never waits, without an event loop, which would take most of the time."""
    try:
        work.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    raise AssertionError("the coroutine waited")


def _quoted(name: str | None) -> str | None:
    """Return a name as the HTML standard escapes it."""
    return name and name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _plain(name: str | None) -> str | None:
    """Return a name without that escaping, which some readers decode and some do not."""
    return name and name.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")


def _alike(read: Iterable[tuple[str, str | None, str | None, bytes]]) -> list[object]:
    return [(_plain(name), _plain(filename), *rest) for name, filename, *rest in read]


def _cut(body: bytes, sizes: Sequence[int]) -> list[bytes]:
    blocks, at, turn = [], 0, 0
    while at < len(body):
        size = sizes[turn % len(sizes)]
        blocks.append(body[at : at + size])
        at, turn = at + size, turn + 1
    return blocks


def _form(blocks: Sequence[bytes], length: int | None = None) -> Form:
    rest = iter(blocks)

    async def read() -> bytes:
        return next(rest, b"")

    return read_form(f"multipart/form-data; boundary={_BOUNDARY.decode()}", length, read, _LIMITS)


async def _parts(form: Form) -> _Read:
    return [
        (part.name, part.filename, part.media_type, b"".join([chunk async for chunk in part.chunks]))
        async for part in form.parts
    ]


async def _framed(form: Form) -> bytes:
    framed = await frame(form)
    sent = b"".join([block async for block in framed.blocks])
    _must(framed.length in {None, len(sent)}, "the promised length was not kept")
    return sent


if __name__ == "__main__":
    main()
