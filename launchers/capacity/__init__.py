"""Predict from traffic which limit binds, what to deploy, and what it costs."""
