"""Tells the operator the demand: one DemandReport for each replica of the gateway.

report   what a report says and when the next one is due, pure
writer   writes it
"""
