"""Do maps depend on what was learned? The parameter-randomisation test."""
