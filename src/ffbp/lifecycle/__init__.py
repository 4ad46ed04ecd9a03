"""A run's life: its directory, how it starts, trains, is saved, resumed, loaded and swept."""
