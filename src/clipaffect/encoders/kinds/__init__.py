"""The kinds of encoders, one module for each; ``encoders.registry`` says what a kind offers."""
