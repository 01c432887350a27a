"""Models with random weights and of any size, made of the real classes and saved as folders: what tests and benchmarks run on."""
