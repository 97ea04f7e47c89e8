"""Env construction and description."""
