"""Serve a model inside an AWS Lambda function, which costs nothing while nobody asks."""
