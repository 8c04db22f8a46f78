"""Speak S3: one client for the store, for sources and for the quarantine, over aiohttp.

requests           a request, an answer, a failure; its kind and its words; the documents of S3, pure
signing            Signature Version 4, pure
credentials        keys and region of the AWS SDK's usual chain
client             send requests: timeouts, retries with backoff, streams
multipart_uploads  list and abort them; upload a file

The SDK (botocore) only finds the credentials, and is imported when a client is opened.
"""
