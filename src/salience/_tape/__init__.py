"""A recorded pass, explained: tapes, maps of whole data sets, coverage and cost."""
