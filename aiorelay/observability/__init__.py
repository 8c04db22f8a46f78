"""What operators see.

logs       one line an upload, as text or JSON; the request's id
metrics    counters for Prometheus
tracing    spans for OpenTelemetry
"""
