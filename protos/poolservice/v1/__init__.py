"""Version 1 of the contract: generated from pool.proto by `make protos`, never edited."""
