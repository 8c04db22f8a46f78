"""List the webhook events that were not accepted, and send them again."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from aiorelay.webhooks.dead_letters import DeadLetters

__all__ = ["listed", "send_again"]


def listed(state_dir: Path) -> Iterator[str]:
    """Yield a line for each dead letter, the oldest first: its id, time and type, and the id of its request."""
    for identity, body in DeadLetters(state_dir).events():
        try:
            event = json.loads(body)
            words = event["timestamp"], event["type"], event["data"]["request_id"] or "-"
        except (ValueError, KeyError, TypeError):
            words = ("-", "-", "-")
        yield " ".join(map(str, (identity, *words)))


def send_again(state_dir: Path, identities: Sequence[str]) -> tuple[list[str], list[str]]:
    """Put dead letters back into the outbox, all of them if none is named.

    Returns the ids of those that were put there, and those of the others, which are no dead letters.
    """
    letters = DeadLetters(state_dir)
    wanted = list(dict.fromkeys(identities)) or [identity for identity, _ in letters.events()]
    sent = letters.send_again(wanted) if wanted else []
    return sent, [each for each in wanted if each not in set(sent)]
