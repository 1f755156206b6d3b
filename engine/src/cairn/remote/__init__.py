"""Object stores: checkpoints that leave the machine, and runs that continue from an empty disk."""
