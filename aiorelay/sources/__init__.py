"""What the relay reads by itself: files that JSON documents name, and raw bodies, as forms.

ingest           the JSON document, its sources opened, and the form that is made of them
address_rules    which addresses and hosts may be dialled, pure
fetch/           a remote file as a stream
"""
