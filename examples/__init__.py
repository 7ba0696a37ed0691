"""Examples: programs to run from the root of the repository; `examples.deblurring` is a package of its own."""
