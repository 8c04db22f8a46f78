"""rest1, the relay in front of an upload API.

app                    routes and handlers
├── request_forms      a request's body as a Form, by its Content-Type
├── delivery           send a form streamed or spooled; retry a spooled one
│   └── upstream       one POST to the upload API
│       ├── held_back             the last block of a body, sent slowly until the verdict
│       └── upstream_connection   which connections are used again; answers read although one broke
│           └── keep_alive        how long an idle connection may be used again, pure
├── pieces             refuse uploads that are pieces of files
├── answers            pass an answer back, or serialize it for a job
├── preferences        the Prefer header field (RFC 7240)
└── progress           record bytes, files and phases of an upload
jobs/                  uploads that go on after their request was answered
openapi/               the description at /openapi.json
web/                   the upload page and the API's page
"""
