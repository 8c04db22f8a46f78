"""HTTP code for both servers, on top of aiohttp.

cross_origin         pages of other sites: CORS, or refusal; foreign hosts on the loopback
own_hosts            which Host fields name a server (DNS rebinding)
request_smuggling    reject requests that other implementations may read differently (RFC 9112, section 11.2)
authentication       the client's name by token or certificate, its address behind trusted proxies
credentials          the token in the header fields of a request; the challenge for one without
tokens               the file of tokens; making one
json_web_tokens      verify JWTs (RFC 8725)
json_web_keys        the keys that verify them, from a file or a URL
request_body         the body of a request in blocks, with timeouts; 100 (Continue) before the first read
interim              interim responses (1xx)
middleware           timeout for sending a response, Expect, paths without a route
problem_details      errors as ``application/problem+json`` (RFC 9457)
fields               which header fields are passed on or added
grammar              tokens, lists, parameters, media types (without aiohttp: the settings use it too)
structured_fields    items and dictionaries (RFC 9651)
hop_by_hop           the fields that are never passed on (without aiohttp: the settings use it too)
"""
