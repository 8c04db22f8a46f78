"""Scan each file with an ICAP service (RFC 3507): send it there while it is uploaded, and refuse it on its answer.

    answers        bytes of the service → events, incrementally; limits of heads and lines; pure
    options        the answer to OPTIONS → what the service wants; pure
    requests       the heads of OPTIONS, REQMOD and RESPMOD; pure
    transaction    one file: what is sent when, what an answer means, whether it may be sent again; pure
    threats        the fields of an answer that name a threat; pure
    connection     a socket, plain or TLS, with an answer that is read while a request is sent
    service        one service: its options, its idle connections, its limit of connections
    scan           the check: a transaction over a connection of the service

The body of the file is encapsulated as that of an HTTP message: of a PUT request (REQMOD), or of the response to a GET
request (RESPMOD). The URL is ``http://aiorelay.invalid/NAME``; no header field of the client is passed on.
"""
