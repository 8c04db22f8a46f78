"""An upload API on Django, for gunicorn: STORE names its directory; more bytes than MAX_BODY are answered with 413."""

import os
from pathlib import Path

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, HttpResponseBadRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_protect

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="for tests",
    SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
    USE_TZ=True,
    USE_X_FORWARDED_HOST=True,
)
django.setup()
MAX_BODY = float(os.environ.get("MAX_BODY", "inf"))


def upload(request):
    if int(request.headers.get("Content-Length", 0)) > MAX_BODY:
        return HttpResponse("too large", status=413)
    if "somefile" not in request.FILES:
        return HttpResponseBadRequest("no file")
    file = request.FILES["somefile"]
    target = Path(os.environ["STORE"]) / file.name
    target.write_bytes(file.read())
    return JsonResponse(
        {"status": "done", "path": str(target), "fields": request.POST, "seen": [request.scheme, request.get_host()]}
    )


# The second one as the admin has it: against forged requests from other sites.
urlpatterns = [path("upload", upload), path("protected", csrf_protect(upload))]
application = get_wsgi_application()
