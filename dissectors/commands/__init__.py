"""The ``vmbus`` subcommands that decode, one file each."""
