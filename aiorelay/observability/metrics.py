"""Prometheus metrics, in a registry of their own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from aiorelay.observability.logs import UploadRecord

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# From a small file on the loopback to a large file over a slow connection: milliseconds to hours.
_SECONDS = (0.005, 0.02, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600)


class Metrics:
    """The counters of one relay."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self.uploads = Counter(
            "aiorelay_uploads_total",
            "Uploads that ended, by endpoint and outcome",
            ["endpoint", "outcome"],
            registry=registry,
        )
        self.upload_bytes = Counter(
            "aiorelay_upload_bytes_total",
            "Bytes of files received, and bytes written to the upstream",
            ["leg"],
            registry=registry,
        )
        self.received, self.forwarded = map(self.upload_bytes.labels, ("received", "forwarded"))
        self.upload_seconds = Histogram(
            "aiorelay_upload_seconds",
            "Time an upload spent receiving, checking, forwarding, and waiting for the answer",
            ["phase"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.uploads_in_flight = Gauge("aiorelay_uploads_in_flight", "Uploads in progress", registry=registry)
        self.upstream_errors = Counter(
            "aiorelay_upstream_errors_total",
            "Failures of the upstream, by error type of RFC 9209",
            ["kind"],
            registry=registry,
        )
        self.scans = Counter(
            "aiorelay_scans_total",
            "Scans that ended, by scanner and verdict",
            ["scanner", "outcome"],
            registry=registry,
        )
        self.validators_given_up = Counter(
            "aiorelay_validators_given_up", "Validators that took longer than validator-timeout", registry=registry
        )

    def ended(self, upload: UploadRecord) -> None:
        """Count an upload that has ended, and observe its phases."""
        self.uploads.labels(upload.endpoint, upload.outcome).inc()
        if upload.upstream_error is not None:
            self.upstream_errors.labels(upload.upstream_error).inc()
        for phase, seconds in upload.watch.phases.items():
            self.upload_seconds.labels(phase).observe(seconds)

    def scanned(self, scanner: str, outcome: str) -> None:
        """Count a virus scan that has ended."""
        self.scans.labels(scanner, outcome).inc()

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
