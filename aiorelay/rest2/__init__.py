"""rest2, the embedded upload API: it stores each file of a form, completely or not at all.

app      the route /upload
store    one directory per form, published by one rename
"""
