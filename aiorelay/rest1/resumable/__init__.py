"""Resumable uploads: their bytes are kept until the last one is there, and delivered as those of any other upload.

draft_routes           HTTP resumable uploads (draft-ietf-httpbis-resumable-upload)
tus_routes             tus 1.0.0
├── representation     what the creation asked for: what the bytes are, and the Form that they make
├── reception          receive bytes: write them down, check what can be checked early
├── completion         deliver what is complete, keep the outcome
└── outcomes           answers and descriptions of uploads
store                  create, find, append to, read, end and expire unfinished uploads
├── appending          the only writer of an upload
├── claims             a newer request takes over from an older one
└── files              an upload's record and bytes on disk, shared with other processes
tus_fields             parse the header fields of tus 1.0.0
draft_fields           parse and render those of draft-ietf-httpbis-resumable-upload
"""
