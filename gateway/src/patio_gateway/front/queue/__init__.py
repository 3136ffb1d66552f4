"""Requests that wait for a model's first worker: who goes on, who is refused, who has waited too long. Pure.

`line` orders the requests for one model or adapter, `pace` says how many of them go on at a time, `queues` has all
lines and their bounds. Time is an argument everywhere; `front.holder` calls it and wakes the requests.
"""
