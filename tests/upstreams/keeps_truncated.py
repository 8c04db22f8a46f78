"""An upload API that is made as one should not: keeps_truncated.py FD STORE answer|hang-up [PEM].

With PEM, a certificate and its key, it speaks TLS. It writes to the file's final name while the body comes in, and
does not ask for its end. On a body that breaks off it answers as on any other, or notices and hangs up, but leaves
the file.
"""

import re
import socket
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

descriptor, store, manner, *certificate = int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]


class Upload(BaseHTTPRequestHandler):
    def do_POST(self):
        if "Content-Length" in self.headers:
            self.receive(int(self.headers["Content-Length"]))
        else:
            self.send_error(411)

    def receive(self, left):
        file, body = None, b""
        while left and (block := self.rfile.read1(left)):
            left -= len(block)
            body += block
            if file is None and (match := re.search(rb'filename="([\w.-]+)[^"]*"', body)):
                file = (store / match[1].decode()).open("wb")
            if file:
                file.write(block)
                file.flush()
        if left and manner == "hang-up":
            return
        self.send_response(201 if file else 400)
        self.end_headers()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    def server_bind(self):
        self.socket = socket.socket(fileno=descriptor)
        if certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def server_activate(self):
        pass


Server(("", 0), Upload).serve_forever()
