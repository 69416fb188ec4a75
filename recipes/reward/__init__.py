"""Training reward models: data, the classic head, the verifier from few labels."""
