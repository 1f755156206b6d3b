"""Data whose order and position are numbers: loaders that go on exactly where a checkpoint left them."""
