"""Where the values of the user can be, and how one is read without running the user's code."""
