"""Start both servers in order, drain them, and close them in reverse order.

processes/     several processes on the same ports, and their supervisor
lifecycle      ``serve()`` and ``run()``: start-up and shutdown on one exit stack
resources      the sockets, the store, the limits and the metrics of a process
wiring         build both servers from the settings
relays         build the relays, one for each upload API
storage        open the store, and the object storage of sources
webhooks       build what tells a receiver of uploads and jobs
listeners      bind sockets; serve an application over TLS; wait for its requests at the end
unix_socket    bind a Unix socket, with its mode and owner
connections    accept connections up to a limit; close idle ones to make room; detect disconnected clients
tls_reads      read many TLS records at once
plain_http     tell clients that speak plain HTTP to a TLS port to use https
"""
