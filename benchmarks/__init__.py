"""Benchmarks against what people would use instead; ``python -m benchmarks NAME [--json]`` runs one."""
