"""Measurements and the fuzzer: `make bench`, `make fuzz`. Nothing here is part of the product."""
