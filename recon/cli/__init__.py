"""The command ``recon``."""
