"""What a composed configuration means: its nodes become checked settings and objects."""
