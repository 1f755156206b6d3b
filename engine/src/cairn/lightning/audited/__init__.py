"""Which values of the user change in training although no checkpoint holds them."""
