"""Jobs: uploads that go on after their request was answered (Prefer: respond-async).

routes      GET, DELETE and server-sent events below /jobs
registry    the jobs of this process: start, find, cancel, expire
files       one file a job, shared with other processes
"""
