"""Benchmark dogbreed against a baseline on this machine: `python -m dogbreed.benchmark`.

One module per benchmark. Both sides are measured in the same session on the same photos, in turn, each time in a
process of its own; no result is stored here.
"""
