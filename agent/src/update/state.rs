//! What the updater remembers between runs: phase, attempt, skip list, floor; written by rename, rebuilt when it cannot be read.
