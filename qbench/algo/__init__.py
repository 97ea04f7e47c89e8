"""Algorithms: each reads like its paper, and updates S seeds at once."""
