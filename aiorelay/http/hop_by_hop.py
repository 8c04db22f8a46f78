"""Hop-by-hop header fields: none is passed on, and none can be set for the upstream."""

__all__ = ["HOP_BY_HOP"]

# RFC 9110, section 7.6.1, with Proxy-Authenticate, Proxy-Authorization and Trailer, which end at the next hop too.
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
