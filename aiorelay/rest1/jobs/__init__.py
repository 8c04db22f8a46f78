"""Jobs: uploads that go on after their request was answered (Prefer: respond-async).

routes          GET, DELETE and server-sent events below /jobs
registry        the jobs that this process runs: start, find, cancel
records         what is written down of a job, for other processes and relays
file_records    records in files, which expire
files           one file a job, shared with other processes of the machine
redis_records   records in Redis, shared with other relays
"""
