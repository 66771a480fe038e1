//! An in-memory cloud for tests.
