"""Receivers of webhooks in tests: answers, and what was delivered to a ``Recorder``."""

import base64
import json
from pathlib import Path
from typing import Any

from peers import Connection, Message, Recorder, Script

KEYS = [bytes(range(32)), bytes(range(1, 33))]
SECRETS = [f"whsec_{base64.b64encode(key).decode()}" for key in KEYS]
ACCEPTED = b"HTTP/1.1 204 No Content\r\n\r\n"


def answer(status: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "Content-Length: 0", "", ""]).encode()


def in_turn(*answers: bytes) -> Script:
    """Answer the deliveries of all connections in turn; repeat the last answer."""
    left = list(answers)

    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.send(left.pop(0) if len(left) > 1 else left[0])

    return script


def secret_file(directory: Path, *secrets: str) -> Path:
    path = directory / "webhook-secret"
    path.write_text("".join(f"{each}\n" for each in secrets or SECRETS[:1]))
    return path


def ids(receiver: Recorder) -> list[str]:
    """Return the ids of all deliveries."""
    return [each["webhook-id"] for each in receiver.requests]


def events(receiver: Recorder) -> list[Any]:
    """Return the payloads of all deliveries."""
    return [json.loads(each.body) for each in receiver.requests]


def types(receiver: Recorder) -> list[str]:
    return [each["type"] for each in events(receiver)]


def signed(delivery: Message) -> dict[str, str]:
    """Return the header fields that a receiver verifies."""
    return {name: delivery[name] for name in ("webhook-id", "webhook-timestamp", "webhook-signature")}
