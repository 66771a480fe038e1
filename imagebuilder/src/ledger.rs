//! The journal of a run: what was about to be created, what exists, what is gone again.
