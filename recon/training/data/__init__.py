"""Data modules, one file a layout on disk; each yields `recon.training.examples.Batch`."""
