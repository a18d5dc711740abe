"""Studies that are announced before they are run: one recipe in `plans/`, one command, one table."""
