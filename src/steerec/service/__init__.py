"""The HTTP service: a live engine for each tenant, behind keys, limits and one table of routes."""
