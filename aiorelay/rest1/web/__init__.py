"""HTML pages: the upload page and the API documentation.

pages     the routes, with caching and Content-Security-Policy
assets    the files: HTML, CSS, JavaScript, and Swagger UI
"""
