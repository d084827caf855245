"""The server: an artifact behind HTTP, for people (a page), programs (JSON) and SageMaker (its contract).

`python -m dogbreed.serving MODEL`, and `serve` in a container. Needs neither torch nor lightning.
"""
