"""An upload API on Django, for gunicorn: STORE names its directory; more bytes than MAX_BODY are answered with 413."""

import os
from pathlib import Path

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, HttpResponseBadRequest, JsonResponse
from django.urls import path

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="for tests", USE_TZ=True)
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
    return JsonResponse({"status": "done", "path": str(target), "fields": request.POST})


urlpatterns = [path("upload", upload)]
application = get_wsgi_application()
