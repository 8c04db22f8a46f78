"""rest2, the embedded upload API: it stores each file of a form, completely or not at all.

app        the route /upload
store      what a store is
directory  a directory: one below it per form, published by one rename
bucket     object storage: multipart uploads, completed when the form has ended well
leftovers  multipart uploads of processes that were killed
"""
