"""What is measured: protocols (every knob of a recipe) and benchmarks (the real data), each a TOML file."""
