"""Checks of files while they stream, built in or supplied by the user.

    factory(part) ─▶ Check or None        feed · feed · … · finish        close, always
                       └─ ThreadedCheck ─▶ Validator: plain functions, run in a thread, a large piece at a time

    pipeline         the protocols, and a form that runs checks while its parts are read
    side_by_side     run several checks at the same time
    configured       the checks that the settings enable
    size             ``max-size``
    digests          Content-Digest, Repr-Digest, and ``sha256`` of a JSON source
    wanted_digests   Want-Repr-Digest
    required_file    the form field that must carry a file
    verdicts         the outcomes of scanners, and what follows from them
    scanner_sockets  the connection to a scanner
    clamav           a virus scan by a ClamAV daemon
    icap/            ``icap``: a scan by an ICAP service
    validators       user-supplied checks, named ``package.module:name``
    media_type/      ``accept``: the media type, detected from the first bytes
    yara/            ``yara``: rules of YARA, in processes of their own
    quarantine/      ``quarantine``: keep files that were refused
    archives/        ``archive-*``: the entries and the unpacked size of zip and tar files

A check refuses a part by raising a ``Problem``. A block is passed on as soon as every check has received it. The
verdict must be known before the form's closing boundary, which is held back until all parts have been read.
"""
