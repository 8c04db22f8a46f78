"""Resumable uploads: their bytes are kept until the last one is there, and delivered as those of any other upload.

routes                 the routes of both protocols, on one store
├── resources          requests for an upload that both answer alike
├── draft_routes       HTTP resumable uploads (draft-ietf-httpbis-resumable-upload)
│   └── draft_fields   parse and render their header fields
└── tus_routes         tus 1.0.0
    ├── tus_answers    answers with the statuses of tus
    ├── tus_fields     parse the header fields of tus
    └── concatenation  make one upload of several
transfers              take in the content of one request, whichever protocol it came by
├── representation     what the creation asked for: what the bytes are, and the Form that they make
├── reception          receive bytes: write them down, check what can be checked early
├── completion         deliver what is complete, keep the outcome
└── outcomes           answers and descriptions of uploads
unfinished             what an unfinished upload is, and what is done with it, wherever it is kept
store                  create, find, append to, read, end and expire unfinished uploads in files
├── appending          the only writer of an upload
├── claims             a newer request takes over from an older one
└── files              an upload's record and bytes on disk, shared with other processes
shared_store           the same in Redis and in segments, shared with other relays
├── shared_appending   the only writer of an upload
├── shared_claims      a newer request takes over from an older one, of whichever relay
├── upload_records     what is written down in Redis
└── segments           where the bytes are kept: what an implementation promises
object_segments        the bytes of unfinished uploads in object storage
"""
