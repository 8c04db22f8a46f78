"""The process: both servers opened in order, ready, drained, closed in reverse.

lifecycle      ``serve()`` and ``run()``: start-up and shutdown on one exit stack
wiring         build both servers from the settings
listeners      bind sockets; serve an application over TLS; drain its requests
connections    accept connections up to a limit; evict idle ones; find clients that disconnected
plain_http     tell clients that speak plain HTTP to a TLS port to use https
"""
