"""Speed, shown beside a peer in the same run. `make bench` runs all; method and results stand in docs/benchmarks/."""
