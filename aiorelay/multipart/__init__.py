"""multipart/form-data, in and out (RFC 7578; RFC 2046, section 5.1).

form        Form and Part: a part is a named stream of bytes, read once
parser      a body as a Form, strict
part_head   the head of a part, read strictly and written canonically
framing     a Form as one body: its length promised first, its closing boundary sent last
"""
