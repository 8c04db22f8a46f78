"""Prometheus metrics, in a registry of their own."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from aiorelay.observability.logs import PHASES, UploadRecord

__all__ = ["CONTENT_TYPE", "CallMetrics", "Metrics", "WebhookMetrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# From a small file on the loopback to a large file over a slow connection: milliseconds to hours.
_SECONDS = (0.005, 0.02, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600)

# From the loopback to the timeout of a call.
_STATE_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1, 2)

# From a small request on the loopback to a large part over a slow connection.
_STORAGE_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60)


class Metrics:
    """The counters of one relay. ``shown`` is the registry that ``render`` shows, by default that of this process."""

    def __init__(self, shown: CollectorRegistry | None = None) -> None:
        registry = CollectorRegistry()
        self._shown = registry if shown is None else shown
        if shown is None:
            _collect_process(registry)

        def counter(name: str, help_: str, *labels: str) -> Counter:
            return Counter(name, help_, labels, registry=registry)

        self.uploads = counter(
            "aiorelay_uploads_total", "Uploads that ended, by endpoint and outcome", "endpoint", "outcome"
        )
        self.upload_bytes = counter(
            "aiorelay_upload_bytes_total", "Bytes of files received, and bytes written to the upstream", "leg"
        )
        self.received, self.forwarded = map(self.upload_bytes.labels, ("received", "forwarded"))
        seconds = Histogram(
            "aiorelay_upload_seconds",
            "Time an upload spent receiving, checking, forwarding, and waiting for the answer",
            ["phase"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.upload_seconds = {phase: seconds.labels(phase) for phase in PHASES}
        self.uploads_in_flight = Gauge(
            "aiorelay_uploads_in_flight", "Uploads in progress", registry=registry, multiprocess_mode="livesum"
        )
        self.upstream_errors = counter(
            "aiorelay_upstream_errors_total", "Failures of the upstream, by error type of RFC 9209", "kind"
        )
        self.scans = counter("aiorelay_scans_total", "Scans that ended, by scanner and verdict", "scanner", "outcome")
        self.quarantined_files = counter(
            "aiorelay_quarantined_files_total", "Refused files for the quarantine, by outcome", "outcome"
        )
        self.validators_given_up = counter(
            "aiorelay_validators_given_up", "Validators that took longer than validator-timeout"
        )
        self.state = CallMetrics("aiorelay_state", "the shared state", _STATE_SECONDS, registry)
        self.storage = CallMetrics("aiorelay_storage", "the object storage", _STORAGE_SECONDS, registry)
        self.webhooks = WebhookMetrics(registry)

    def ended(self, upload: UploadRecord) -> None:
        """Count an upload that has ended, and observe its phases."""
        self.uploads.labels(upload.endpoint, upload.outcome).inc()
        if upload.upstream_error is not None:
            self.upstream_errors.labels(upload.upstream_error).inc()
        for phase, seconds in upload.watch.phases.items():
            self.upload_seconds[phase].observe(seconds)

    def scanned(self, scanner: str, outcome: str) -> None:
        """Count a scan that has ended."""
        self.scans.labels(scanner, outcome).inc()

    def quarantined(self, outcome: str) -> None:
        """Count a refused file that was kept in quarantine, moved to its bucket, delayed on the way, or lost."""
        self.quarantined_files.labels(outcome).inc()

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._shown)


def _collect_process(registry: CollectorRegistry) -> None:
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)


class CallMetrics:
    """The metrics of calls to another server: ``NAME_seconds`` and ``NAME_errors_total``, by what a call does.

    ``server`` is what the help texts call it. ``buckets`` are in seconds.
    """

    def __init__(self, name: str, server: str, buckets: Sequence[float], registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            f"{name}_seconds",
            f"Time that a call to {server} took, by what it does",
            ["call"],
            buckets=buckets,
            registry=registry,
        )
        self._errors = Counter(
            f"{name}_errors_total",
            f"Calls to {server} that failed, by what they do",
            ["call"],
            registry=registry,
        )

    def called(self, call: str, seconds: float, *, succeeded: bool) -> None:
        """Observe a call that has ended."""
        self._seconds.labels(call).observe(seconds)
        if not succeeded:
            self._errors.labels(call).inc()


class WebhookMetrics:
    """The metrics of webhook events, in ``registry``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.deliveries = Counter(
            "aiorelay_webhook_deliveries_total",
            "Deliveries of webhook events, by outcome; an event is delivered until it is accepted",
            ["outcome"],
            registry=registry,
        )
        self.events_lost = Counter(
            "aiorelay_webhook_events_lost_total",
            "Webhook events that could not be written down, or not kept as dead letters",
            registry=registry,
        )
        self.outbox = Gauge(
            "aiorelay_webhook_outbox",
            "Webhook events that this process has to deliver",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.outbox_age = Gauge(
            "aiorelay_webhook_outbox_age_seconds",
            "Age of the oldest of these events",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.dead_letters = Gauge(
            "aiorelay_webhook_dead_letters",
            "Webhook events that were given up and kept",
            registry=registry,
            multiprocess_mode="livemax",
        )
