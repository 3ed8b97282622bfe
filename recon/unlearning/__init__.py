"""Take training examples out of a trained network, and prove that they are gone."""
