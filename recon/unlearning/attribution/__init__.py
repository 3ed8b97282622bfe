"""Which training examples cause what a network shows: gradient products, influence functions, unrolled training."""
