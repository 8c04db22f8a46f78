"""``yara``: refuse files that match YARA rules, by yara-x.

    check      keep a file until it is complete, then scan it
    rules      the compiled rules, loaded again when they change, and the processes that scan with them
    sources    the files that the rules are read from
    scanning   one process that scans
    process    what runs in the processes: compile, scan

yara-x keeps Python's interpreter lock while it compiles and while it scans, so a thread would stop the event loop. A
process can also be ended when a scan takes too long.
"""
