"""Training with sharded parameters: torch's `fully_shard` (FSDP2), chosen by a strategy of the trainer."""
