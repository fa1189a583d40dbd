"""Is a map right about this output? What removing parts of the input does, beside what maps say."""
