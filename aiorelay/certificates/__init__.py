"""Certificates: the generated CA, TLS contexts, and the certificate that both servers present.

tls         the CA and its server certificate on disk; TLS contexts for servers and clients
identity    the server certificate: the user's own or a generated one, depending on the settings
"""
