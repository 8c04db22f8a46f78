"""Webhooks: tell a receiver how uploads and jobs have ended, as Standard Webhooks 1.0 describes it.

    a record, a job ─▶ events     the event: its type, id and payload
                    ─▶ publisher  writes it into the outbox, before the answer goes out
                       outbox     one file for each event; processes share the directory
                    ─▶ delivery   sends in the background, again after pauses, until it is accepted or a day is over
                       ├─ queue       which event is due next, pure
                       ├─ schedule    how long to wait, pure
                       ├─ receiver    one POST, to addresses that may be dialled only
                       └─ signatures  the secrets, and the signature of a POST
                       dead_letters   events that were not accepted

Each event is delivered at least once, always with the same id. The order is not that of the events.
"""
