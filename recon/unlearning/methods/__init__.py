"""One method a file: a function of (model, forget, retain, budget) that returns the model; see the registry."""
