"""How fast training is, side by side with the usual way, on the machine at hand: `python -m dogbreed.benchmark`.

One module a benchmark. Both sides of each are measured in one sitting on the same photos, in turn, each time in a
process of its own; no number is written down here.
"""
