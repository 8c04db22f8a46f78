"""State that relays share, in Redis or Valkey (the setting ``state``).

server      connections, scripts, timeouts, errors; whether the server can be reached
channels    one connection that listens to channels (publish and subscribe)

What is kept there, and under which keys, is decided where it is used: ``rest1/redis_counters``,
``rest1/jobs/redis_records``. Three rules hold for all of it:

- Every key begins with ``aiorelay:1:``. A version that stores something else under a key uses another number.
- Every key expires, so that nothing stays of relays that are gone.
- Keys that one script uses have the same hash tag ("{...}"), so that Redis Cluster keeps them together.

redis-py, because it has the most users, the upkeep of a company, and no dependencies. It speaks to Valkey as well.
"""
