"""How any job is run: settings, the one runner, the Hydra callback, sweeps, tracking."""
