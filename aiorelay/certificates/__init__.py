"""Certificates: the generated CA, TLS contexts, and the certificate that both servers present.

tls         the CA and what it signs, on disk; contexts for servers and clients
identity    the served certificate, by the settings: the user's own or a generated one
"""
