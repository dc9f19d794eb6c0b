"""Experiments with jlstm: tasks, configs, and the runner behind `python -m experiments`."""
