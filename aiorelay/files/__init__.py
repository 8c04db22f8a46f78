"""Files on this machine.

filenames    last components, safe names, the media type of an extension (pure)
local        a local file below a root, opened without following links out of it; a file as a stream
writer       one file written and hashed in a thread
locks        a file or directory locked by the process that uses it (flock)
spool        bytes kept until all of them are there: in memory, then in an unnamed file
"""
