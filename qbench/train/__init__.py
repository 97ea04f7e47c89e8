"""Composes, launches and trains: the only package that knows Hydra and Lightning."""
