"""``archive-*``: what a zip or tar would unpack to.

check ─▶ zip, tar, inflate ─▶ rules ─▶ formats

check          the check: spool a file, inspect it once it is whole
zip, tar       the entries of each format (zip_records: a zip's records)
inflate        compressed streams, in pieces of bounded size
embedded       archives behind or inside other data
rules          the limits and paths that every entry is held to, pure
formats        what counts as an archive, pure
"""
