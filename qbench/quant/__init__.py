"""Quantization schemes: transforms of any network, prepare -> calibrate -> convert."""
