"""The built-in sample: one slice of a real 8-coil brain scan, variable-density Poisson-disc sampled (12.4 %)."""
