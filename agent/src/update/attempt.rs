//! The one part that acts: runs an update attempt from check to commit, each step persisted before its effect.
