"""Worlds made from real data that answer slates with clicks."""
