"""Checks: what judges a file while it streams, built-in or the user's own.

    factory(part) ─▶ Check or None        feed · feed · … · finish        close, whatever happened
                       └─ ThreadedCheck ─▶ Validator: plain functions, run in a thread, a large piece at a time

    pipeline         the protocols, and a form whose parts pass through their checks
    configured       the checks that the settings turn on, cheapest first
    size             ``max-size``
    digests          Content-Digest, Repr-Digest, and ``sha256`` of a JSON source
    wanted_digests   Want-Repr-Digest
    clamav           a ClamAV daemon
    validators       the user's own, named ``package.module:name``
    media_type/      ``accept``: the type that the first bytes tell
    archives/        ``archive-*``: what a zip or tar would unpack to

A check objects by raising a ``Problem``. Bytes are passed on as soon as every check was fed: the verdict has to fall
before the form's closing boundary, which is held back until every part has been read to its end.
"""
