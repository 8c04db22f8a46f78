"""Parse and write multipart/form-data (RFC 7578; RFC 2046, section 5.1).

form        Form and Part: a part is a named stream of bytes, read once
parser      parse a body into a Form, strictly
part_head   parse the head of a part strictly, and write it in a canonical form
framing     write a Form as one body: its length is known first, its closing boundary is sent last
"""
