"""Training in Lightning: examples, losses, the module, and the command ``recon train``."""
