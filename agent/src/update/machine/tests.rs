//! The phases, step by step.
