"""A small shop with three leaks. The package ``fixed`` beside it has the same functions without them."""
