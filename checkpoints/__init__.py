"""Trained weights (safetensors) with a card each: what, trained on what, figures, sha256."""
