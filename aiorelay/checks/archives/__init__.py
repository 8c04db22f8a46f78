"""``archive-*``: inspect the entries of zip and tar files and limit what they unpack to.

check ─▶ zip, tar, inflate ─▶ rules ─▶ formats

check          the check: spool a file, inspect it when it is complete
zip, tar       the entries of each format (zip_records: the records of a zip)
inflate        compressed streams, in pieces of bounded size
embedded       archives behind or inside other data
rules          the limits and path rules for every entry, pure
formats        detection of archive formats, pure
"""
