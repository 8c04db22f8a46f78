"""Threads and timeouts.

threads     wait for work in a thread to its end, cancelled or not; threads for work that may hang
timeouts    one timer for many waits; the minimum rate of a sender
"""
