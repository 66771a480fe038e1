//! `[image.agent.drain]`: how the image's instances drain. Keys and limits are in [`contract::drain`].

use contract::drain::Drain;

/// What the agent would refuse on the instance.
pub(super) fn findings(drain: &Drain) -> impl Iterator<Item = String> {
    drain.findings().into_iter().map(|finding| {
        let what = format!("[image.agent.drain] {}: {}", finding.key, finding.problem);
        match finding.hint {
            "" => what,
            hint => format!("{what}: {hint}"),
        }
    })
}
