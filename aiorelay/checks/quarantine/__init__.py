"""``quarantine``: keep files that were refused for their content, for people who look into them.

    check        record the bytes of a file while it is checked; keep them if it is refused
    sample       the recorded bytes of one file
    directory    the kept files: their names, their expiry, what a killed process has left
    bucket       move the kept files from a directory to object storage

A file is recorded in memory up to 1 MiB, then in ``.ID.part``. If it is refused, the file is renamed to ``ID``, and the
verdict is written to ``ID.json`` after that: a file is complete if its verdict is there. Otherwise it is removed.
"""
