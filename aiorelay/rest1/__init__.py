"""rest1, the relay in front of an upload API.

app                    routes and handlers
├── intake             authenticate, parse, admit and log a request; open its body
│   ├── observers      metrics, traces and webhook events of every upload
│   ├── upload_request what a request asks for, one frozen value
│   ├── upload_slots   uploads at once, of all principals and of each
│   ├── principal_limits   uploads per time and bytes per day of each principal
│   │   ├── redis_counters the counters of these limits in Redis, shared with other relays
│   │   └── rate_limits    the arithmetic and the header fields of these limits, pure
│   ├── preferences    the Prefer header field (RFC 7240)
│   └── pieces         refuse uploads that are pieces of files
├── health             whether the relay is alive, and whether it can take uploads
├── request_forms      a request's body as a Form, by its Content-Type
├── relay              the one pass: check a form, frame it, deliver it
│   ├── progress       record bytes, files and phases of an upload
│   └── delivery       send a form streamed or spooled; retry a spooled one
│       └── upstream   one POST to the upload API
│           ├── held_back             the last block of a body, sent slowly until the verdict
│           ├── upstream_exchange     one request and its answer, on one connection
│           └── upstream_connection   which connections are used again; answers read although one broke
│               └── keep_alive        how long an idle connection may be used again, pure
├── answers            pass an answer back, or serialize it for a job
│   └── public_addresses   the upload API's own address, replaced in answers
└── routes             uploads at the paths of other upload APIs
    └── target         where a request to the upload API goes, pure
jobs/                  uploads that go on after their request was answered
resumable/             uploads that are continued after an interruption
openapi/               the description at /openapi.json
web/                   the upload page and the API's page
"""
