"""The pages, figures and tables that a person reads."""
