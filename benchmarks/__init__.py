"""Side-by-side timings of jlstm and other LSTMs on CPU: `python -m benchmarks`, `python -m benchmarks.to_target`."""
