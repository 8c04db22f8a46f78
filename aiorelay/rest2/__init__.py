"""rest2, the embedded upload API: it stores each file of a form, whole or not at all.

app      the route /upload
store    a directory for each form, published by one rename
"""
