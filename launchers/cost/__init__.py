"""Estimate what a run costs and how long it takes, before it starts."""
