"""What codes mean: code systems, value sets, concept maps, and the operations on them."""
