//! Percentages in absolute numbers: how many members at a time, and how long it may take.

use cloud::Preferences;

/// Percentages in absolute numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// The desired capacity they were computed from.
    pub(crate) desired: u32,
    /// Members that stay in service, healthy and warmed.
    pub(crate) keep: u32,
    /// Members the group may have at most meanwhile.
    pub(crate) cap: u32,
    /// Members replaced at a time.
    pub(crate) batch: u32,
    /// How many such batches there are.
    pub(crate) batches: u32,
    /// A guess at the whole duration.
    pub(crate) seconds: u64,
}

/// What one instance is taken to need from launch to InService, for the estimate only: a Debian instance is
/// through its boot and a short gate in about this time on common types.
pub(super) const BOOT_ESTIMATE_SECONDS: u64 = 90;

impl Pace {
    /// Percentages in absolute numbers, as the service rounds them: what is kept up, what is capped
    /// down, and always at least one at a time.
    pub(crate) fn of(desired: u32, replace: usize, preferences: &Preferences) -> Self {
        let replace = u32::try_from(replace).unwrap_or(u32::MAX);
        let keep =
            u32::try_from((u64::from(desired) * u64::from(preferences.min_percent)).div_ceil(100))
                .unwrap_or(desired);
        let cap = u32::try_from(u64::from(desired) * u64::from(preferences.max_percent) / 100)
            .unwrap_or(u32::MAX);
        let space = (cap - desired) + (desired - keep);
        let batch = space.clamp(1, replace.max(1));
        // With no room at all the service launches one above the cap before it terminates one.
        let cap = if space == 0 { desired + 1 } else { cap };
        let batches = replace.div_ceil(batch);
        let pauses = u64::try_from(preferences.checkpoints.len().saturating_sub(1)).unwrap_or(0);
        Self {
            desired,
            keep,
            cap,
            batch,
            batches,
            seconds: u64::from(batches)
                * (BOOT_ESTIMATE_SECONDS + u64::from(preferences.warmup_seconds))
                + pauses * u64::from(preferences.checkpoint_delay_seconds)
                + u64::from(preferences.bake_seconds),
        }
    }
}
