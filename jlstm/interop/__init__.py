"""Weights and configuration of LSTMs, from other libraries and back: `from_x(obj) -> (spec, params)`, `to_x(spec, params)`.

A module each; none imports its library before a function of it is called.
"""
