"""HTTP as both servers need it, above what aiohttp does.

request_smuggling    reject requests that other implementations may read differently (RFC 9112, section 11.2)
authentication       bearer tokens, client certificates, the client's address behind proxies
request_body         a request's body as blocks, with its timeouts; 100 (Continue) just before the first
interim              interim responses (1xx)
middleware           a deadline for reading a response; Expect; paths without a route
problem_details      errors as ``application/problem+json`` (RFC 9457)
fields               which header fields are passed on or added
hop_by_hop           the fields that are never passed on (imports nothing: settings need it too)
"""
