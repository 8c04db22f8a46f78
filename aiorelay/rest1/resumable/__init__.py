"""Resumable uploads: their bytes are kept until the last one is there, and then delivered as any other upload's.

tus_fields      parse the header fields of tus 1.0.0
draft_fields    parse and render those of draft-ietf-httpbis-resumable-upload
"""
