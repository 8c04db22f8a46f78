"""Several processes on the same ports, with common limits and metrics.

    supervisor     start the processes, restart those that end, pass on signals, end them
    worker         one of the processes: report when it is ready, and obey its supervisor
    shared         what the processes share
    table          which processes live, how many connections each has, and which send to the upload API
    balance        leave a new connection to the process with the fewest
    siblings       keep the upload APIs until no process sends to them
    slots          the uploads under way of all processes
    counters       what each principal has used, of all processes
    shared_memory  memory that forked processes share, with a lock

The supervisor binds the sockets and makes the shared memory. Then it forks, so the processes inherit both.
"""
