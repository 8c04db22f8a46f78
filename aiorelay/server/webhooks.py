"""Build the publisher of webhook events from the settings."""

from collections.abc import AsyncGenerator, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager

from yarl import URL

from aiorelay.observability.logs import log
from aiorelay.observability.metrics import Metrics
from aiorelay.settings import Settings
from aiorelay.settings.places import is_loopback
from aiorelay.sources.address_rules import Listener
from aiorelay.webhooks.delivery import Delivery
from aiorelay.webhooks.outbox import Outbox
from aiorelay.webhooks.publisher import NO_WEBHOOK, OutboxPublisher, Publisher
from aiorelay.webhooks.receiver import Receiver
from aiorelay.webhooks.signatures import Secrets

__all__ = ["publishing"]


@asynccontextmanager
async def publishing(
    settings: Settings, metrics: Metrics, own: Collection[Listener]
) -> AsyncGenerator[Publisher, None]:
    """Publish events during the context, if ``webhook`` is set. ``own`` are the relay's listeners.

    At the end, events that are due are delivered for at most 5 seconds, or ``grace`` if that is shorter. The others
    stay in the outbox. Raises ``StartupError``.
    """
    if settings.webhook is None or settings.webhook_secret_file is None:
        yield NO_WEBHOOK
        return
    _warn_of_plain_http(settings.webhook)
    secrets = Secrets(settings.webhook_secret_file)
    outbox = Outbox(settings.state_dir, fsync=settings.durable)
    receiver = Receiver(settings.webhook, secrets, allowed=settings.webhook_allow_net, own=own)
    delivery = Delivery(outbox, receiver, metrics.webhooks)
    with ExitStack() as stack:
        outbox.open()
        stack.callback(outbox.close)
        pool = stack.enter_context(ThreadPoolExecutor(1, "webhook-sync"))
        async with delivery.running(settings.grace):
            publisher = OutboxPublisher(outbox, delivery, metrics.webhooks, pool)
            try:
                yield publisher
            finally:
                await publisher.written()


def _warn_of_plain_http(url: URL) -> None:
    if url.scheme == "http" and not is_loopback(url.host or ""):
        log.warning("webhook is an http URL: others can read the events, which name clients and files. Use https.")
