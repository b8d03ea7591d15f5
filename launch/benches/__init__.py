"""One file per benchmark of launch.bench; each compares with a peer in the same run."""
