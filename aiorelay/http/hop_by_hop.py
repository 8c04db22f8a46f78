"""Hop-by-hop header fields, which are not passed on and cannot be set for the upstream."""

__all__ = ["HOP_BY_HOP"]

# RFC 9110, section 7.6.1, and Proxy-Authenticate, Proxy-Authorization and Trailer, which also apply to one hop.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
