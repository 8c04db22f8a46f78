"""Logs, metrics and traces for operators.

logs             one line per upload, as text or JSON; the request's id
metrics          counters for Prometheus
shared_metrics   the same for several processes together
tracing          spans for OpenTelemetry
"""
