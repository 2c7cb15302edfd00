"""Metrics, protocols, comparison with intervals, reports."""
