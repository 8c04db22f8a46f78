"""Form parsers of other projects: from a boundary and a body to each part's name, filename, type and bytes."""

import multipart
from python_multipart.multipart import MultipartParser, parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder

Found = tuple[str, str | None, str | None, bytes]


def by_multipart(boundary: bytes, body: bytes) -> list[Found]:
    found: list[Found] = []
    with multipart.PushMultipartParser(boundary, strict=True, max_header_size=1 << 16) as parser:
        for event in parser.parse(body):
            if isinstance(event, multipart.MultipartSegment):
                found.append((event.name, event.filename, dict(event.headerlist).get("Content-Type"), b""))
            elif event:
                name, filename, media_type, content = found.pop()
                found.append((name, filename, media_type, content + event))
    return found


def by_python_multipart(boundary: bytes, body: bytes) -> list[Found]:
    """Parse with python-multipart, as Starlette does."""
    found: list[Found] = []
    headers: dict[bytes, bytes] = {}
    field, value, content = bytearray(), bytearray(), bytearray()

    def header_end() -> None:
        headers[bytes(field).lower()] = bytes(value)
        field.clear()
        value.clear()

    def part_end() -> None:
        _, options = parse_options_header(headers[b"content-disposition"])
        filename, media_type = options.get(b"filename"), headers.get(b"content-type")
        found.append((options[b"name"].decode(), _decoded(filename), _decoded(media_type), bytes(content)))
        headers.clear()
        content.clear()

    parser = MultipartParser(
        boundary,
        {
            "on_header_field": lambda data, start, end: field.extend(data[start:end]),
            "on_header_value": lambda data, start, end: value.extend(data[start:end]),
            "on_header_end": header_end,
            "on_part_data": lambda data, start, end: content.extend(data[start:end]),
            "on_part_end": part_end,
        },
    )
    parser.write(body)
    parser.finalize()
    return found


def by_werkzeug(boundary: bytes, body: bytes) -> list[Found]:
    """Parse with Werkzeug, as Flask does."""
    decoder = MultipartDecoder(boundary)
    decoder.receive_data(body)
    decoder.receive_data(None)
    found: list[Found] = []
    while not isinstance(event := decoder.next_event(), Epilogue):
        if isinstance(event, Field | File):
            found.append((event.name, getattr(event, "filename", None), event.headers.get("Content-Type"), b""))
        elif isinstance(event, Data):
            name, filename, media_type, content = found.pop()
            found.append((name, filename, media_type, content + event.data))
    return found


def _decoded(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


READERS = [by_multipart, by_python_multipart, by_werkzeug]
