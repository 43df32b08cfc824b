"""The command line: commands for people, and ``clipaffect rule ...`` for the workflow's rules."""
