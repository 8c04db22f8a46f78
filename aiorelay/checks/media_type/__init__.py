"""``accept``: accept files by the type of their first bytes or by the extension of their names.

accept        the check
signatures    the table of leading bytes
text_types    detection of markup, scripts, JSON and plain text
zip_types     detection of Office documents, e-books and packages, which are zip files
"""
