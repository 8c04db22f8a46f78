"""Pages for people.

pages     the routes, their caching and their Content-Security-Policy
assets    what browsers get: the upload page, and Swagger UI
"""
