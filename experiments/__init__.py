"""One file, one recipe, one command. A file defines `get_config()` and imports nothing of ours."""
