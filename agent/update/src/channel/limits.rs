//! What a channel may cost this instance: bytes, time, key rotations. Only numbers and their reasons.

use std::time::Duration;

/// How slow a server may be before it counts as a slow-retrieval attack, which TUF 1.0.34 leaves to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The longest wait for an answer, or for any next byte of it.
    pub stall: Duration,
    /// The span over which the rate is taken.
    pub window: Duration,
    /// The least bytes in each such span.
    pub least: u64,
    /// The longest that one file may take.
    pub total: Duration,
}

impl Rate {
    /// For metadata: kilobytes, which any working network delivers in seconds; the rest is for a network that is
    /// congested at boot.
    pub const METADATA: Self = Self {
        stall: Duration::from_secs(20),
        window: Duration::from_secs(10),
        least: 10 << 10,
        total: Duration::from_secs(60),
    };

    /// For a release of a few megabytes: at 16 KiB/s six of them take six minutes, and an instance that gets
    /// less is better off trying again at the next run, from where it stopped.
    pub const RELEASE: Self = Self {
        stall: Duration::from_secs(30),
        window: Duration::from_secs(30),
        least: 30 * (16 << 10),
        total: Duration::from_secs(1200),
    };
}

/// What a channel may cost at most. Each limit stops one attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a root: a dozen keys and signatures take 10 KB.
    pub root: u64,
    /// Bytes of the timestamp, which pins one file.
    pub timestamp: u64,
    /// Bytes of the snapshot, which pins one file for each targets role.
    pub snapshot: u64,
    /// Bytes of a targets role: two thousand releases of half a kilobyte. Verified, they take some forty times their
    /// bytes of the host's memory; with the updater's unit (`MemoryMax=`) that is tested at this limit.
    pub targets: u64,
    /// Roots walked in one refresh: one a month for twenty years. What was walked is kept, so that an
    /// honest chain longer than this ends at a later run.
    pub rotations: u32,
    /// The highest version that can be honest: one a second for a hundred and thirty years.
    pub version: u64,
    /// How slowly metadata may come.
    pub metadata_rate: Rate,
    /// How slowly a release may come.
    pub release_rate: Rate,
    /// The longest that a refresh may take as a whole, whatever the number of files.
    pub refresh: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            root: 512 << 10,
            timestamp: 16 << 10,
            snapshot: 512 << 10,
            targets: 1 << 20,
            rotations: 256,
            version: 1 << 32,
            metadata_rate: Rate::METADATA,
            release_rate: Rate::RELEASE,
            refresh: Duration::from_secs(300),
        }
    }
}
