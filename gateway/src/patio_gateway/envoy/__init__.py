"""Envoy's process: its program, its files, its administration, its start and its end. It decides nothing."""
