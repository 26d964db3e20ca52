//! Which accesses are ordered before which: vector clocks of threads and barriers.
