"""``accept``: which files may pass, by their first bytes or by the extension of their names.

accept        the check
signatures    the table of leading bytes
text_types    markup, scripts and JSON told from plain text
zip_types     Office documents, e-books and packages told from plain zip files
"""
