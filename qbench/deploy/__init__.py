"""Exports of the converted networks."""
