"""Metrics that follow the rules of the official evaluators."""
