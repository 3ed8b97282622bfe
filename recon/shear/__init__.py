"""Shapes and shear of galaxies."""
