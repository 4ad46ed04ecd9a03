"""The parts of Forward-Forward: small pure functions on tensors."""
