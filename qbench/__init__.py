"""qbench: what does quantization do to a deep-RL agent?"""

__version__ = "0.1.0"
