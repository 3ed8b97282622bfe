"""Configurations of ``recon train``, by name: ``recon train recurrentvarnet-tiny``."""
