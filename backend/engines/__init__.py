"""Where a scoring runs its models: in this process, or in shards on other machines."""
