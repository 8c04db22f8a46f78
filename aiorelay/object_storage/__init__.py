"""Speak S3: one client for the store and for sources, over aiohttp.

requests     a request, an answer, a failure; its kind and its words; the documents of S3, pure
signing      Signature Version 4, pure
credentials  keys and region of the AWS SDK's usual chain
client       send requests: timeouts, retries with backoff, streams

The SDK (botocore) only finds the credentials, and is imported when a client is opened.
"""
