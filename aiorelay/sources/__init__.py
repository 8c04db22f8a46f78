"""Build forms from files that JSON documents name, local or remote, and from raw bodies.

ingest           parse the JSON document, open its sources, and build the form
address_rules    which addresses and hosts the relay may connect to, pure
fetch/           a remote file as a stream
objects          an object of object storage as a stream
"""
