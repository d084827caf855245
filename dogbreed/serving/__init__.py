"""Serve an artifact over HTTP: a web page, a JSON API and SageMaker's container contract.

Run `python -m dogbreed.serving MODEL`, or `serve` in a container. Needs neither torch nor lightning.
"""
