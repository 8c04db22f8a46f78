"""Resumable uploads: their bytes are kept until the last one is there, and then delivered as any other upload's.

store           create, find, append to, read, end and expire unfinished uploads
├── appending   the only writer of an upload
├── claims      a newer request takes over from an older one
└── files       an upload's record and bytes on disk, shared with other processes
"""
