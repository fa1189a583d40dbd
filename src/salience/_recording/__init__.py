"""One pass of a model, as pure functions of numbered values."""
