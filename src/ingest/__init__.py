"""The ways in: the door that all share, and the gateways that translate for it."""
