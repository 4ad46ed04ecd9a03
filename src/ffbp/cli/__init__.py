"""The commands: what a shell's words mean, and one line and an exit code for what goes wrong."""
