"""The guest ends (VSCs) of the synthetic devices, in Python: for tests, tools and demos."""
