"""Faults seen in real use, a module a kind: each file is made here, from the facts of the report."""
