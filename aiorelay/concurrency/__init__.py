"""Threads, timeouts, and cancellation.

cancellation     await code that may swallow a cancellation
double_buffer    hand a stream over to threads, one piece in work while the next gathers
threads          wait for work in a thread to its end, cancelled or not; threads for work that may hang
timeouts         one timer for many waits; the minimum rate of a sender
"""
