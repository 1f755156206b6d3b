"""The same bits on any number of processes: virtual ranks, which processes take turns to play."""
