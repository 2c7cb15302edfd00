"""Raw records in, trusted Dataset out."""
