"""The names on which maps and results and those who read them agree."""

RISE = "complexity_rise"  # the score of the efficient test
POSITIVE_METHOD, RANDOM_MAP = "gradient", "random_map"  # controls
NEGATIVE, FLOOR = "negative control", "floor control"  # their roles
# where relevance went: entries of a ledger; biases are all constants that are added
INPUT, BIASES, EPS, OTHER = "input", "biases", "eps", "other operations"
NO_POSITIVE, NO_NEGATIVE = "no positive terms", "no negative terms"  # at units without any
# floors of a similarity, by the variables that hold them
BETWEEN, OTHERS, MULTIPLIERS = "between_random", "other_inputs", "other_multipliers"
ERRORS = ("conservation_error", "completeness_error", "sampling_error")  # of maps
REFERENCE, OCCLUSION = "reference", "occlusion"  # what faithfulness is measured by, as a map
