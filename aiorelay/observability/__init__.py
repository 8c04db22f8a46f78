"""Logs, metrics and traces for operators.

logs       one line per upload, as text or JSON; the request's id
metrics    counters for Prometheus
tracing    spans for OpenTelemetry
"""
