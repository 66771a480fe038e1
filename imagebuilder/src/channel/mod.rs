//! Authoring of the signed channel (a TUF 1.0.34 repository) that boxes take new agents from.
//!
//! Nothing of this is on a box: the agent has a client of its own.

#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the commands of the channel come next")
)]
pub(crate) mod waves;
