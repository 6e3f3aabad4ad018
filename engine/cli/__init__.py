"""The command line: arguments become configuration, configuration becomes a run."""
