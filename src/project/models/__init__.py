"""Networks in plain torch, and the LightningModules that train them."""
