//! The instance refresh of EC2 Auto Scaling as a pure state machine.
//!
//! A [`Refresh`] is data: its preferences, its status, which members it replaces. [`Refresh::advance`] takes a [`View`]
//! of the group and the time, decides what is next by the rules that AWS documents, and returns [`Action`]s: remove this
//! member, launch an instance. The caller carries them out and calls again, every second or whenever something changed.
//! There is no I/O, no clock and no `async` here, so that weeks of a refresh pass in a millisecond of a test.
//!
//! Where AWS's documentation leaves the behavior open or contradicts itself, there is a switch with a stated default in
//! [`switches::Switches`].
//!
//! ```text
//!          Refresh::start
//!                 │            nothing to replace
//!              Pending ─────────────────────────────────────┐
//!                 │ Begin                                   │
//!                 ▼                 Bake                    ▼
//!            InProgress ──────────────────▶ Baking ────▶ Successful   (the caller saves the desired template)
//!             │   │  ▲ Checkpoint, hold       │  ▲ End
//!             │   └──┘                        │
//!             │ alarm, stall, 14 days         │ alarm
//!             ├───────────────────────────────┤
//!             │ no auto-rollback              │ auto-rollback, or Refresh::roll_back
//!             ▼                               ▼
//!          Failed                     RollbackInProgress ────▶ RollbackSuccessful
//!                                             │ stall
//!                                             ▼
//!                                      RollbackFailed
//!
//! any of the active ones ── Refresh::cancel ──▶ Cancelling ──▶ Cancelled
//! ```
//!
//! # One step by hand
//!
//! A group of one member, with the default preferences: at least 90 % healthy, no maximum. One member cannot be replaced
//! within that bound, and is replaced all the same.
//!
//! ```
//! use instance_refresh::switches::Switches;
//! use instance_refresh::{Action, Candidate, MemberView, Preferences, Refresh, Start, TemplateRef, View};
//! use jiff::Timestamp;
//!
//! let template = |version: &str| TemplateRef {
//!     id: "lt-1".to_owned(),
//!     name: "shop".to_owned(),
//!     version: version.to_owned(),
//! };
//! let now = Timestamp::UNIX_EPOCH;
//! let mut refresh = Refresh::start(
//!     Start {
//!         id: "08b91cf7-8fa6-48af-b6a6-d227f40f1b9b".to_owned(),
//!         preferences: Preferences::default(),
//!         desired: Some(template("2")),
//!         target: template("2"),
//!         previous: template("1"),
//!         irreversible: None,
//!         members: vec![Candidate {
//!             id: "i-1".to_owned(),
//!             matches: false,
//!             protected: false,
//!             standby: false,
//!         }],
//!     },
//!     now,
//! );
//! let view = View {
//!     desired: 1,
//!     max_size: 2,
//!     members: vec![MemberView {
//!         id: "i-1".to_owned(),
//!         role: refresh.role("i-1", false),
//!         in_service: true,
//!         healthy: true,
//!         warm: true,
//!         protected: false,
//!     }],
//!     standby: Vec::new(),
//!     removing: false,
//!     alarms: Vec::new(),
//!     suspended: false,
//! };
//! let switches = Switches::default();
//! assert_eq!(refresh.advance(&view, now, &switches), [], "it begins");
//! assert_eq!(
//!     refresh.advance(&view, now, &switches),
//!     [Action::Terminate("i-1".to_owned()), Action::Launch]
//! );
//! ```
//!
//! The examples below let a [`simulation`] do what a caller does.
//!
//! # Minimum and maximum healthy percentage
//!
//! The minimum is rounded up and the maximum down, both of the desired capacity. With a minimum of 100, instances are
//! launched before old ones are terminated; with a maximum of 100, afterwards; between the two, both at once.
//!
//! ```
//! use instance_refresh::simulation::Group;
//! use instance_refresh::{Preferences, RefreshStatus};
//!
//! for (desired, min, max, ready, existing) in [
//!     (10, 90, None, 9, 10),       // the defaults: one after the other
//!     (10, 100, Some(110), 10, 11), // launch before terminating, one at a time
//!     (10, 100, Some(200), 10, 20), // a second group beside the first
//!     (10, 50, Some(100), 5, 10),  // terminate and launch, half of the group at a time
//!     (10, 80, Some(120), 8, 12),  // both at once
//!     (5, 100, Some(110), 5, 6),   // 110 % of 5 is 5: one is launched all the same
//! ] {
//!     let group = Group::of(desired).start(Preferences {
//!         min,
//!         max,
//!         ..Preferences::default()
//!     });
//!     let context = format!("{desired} members, {min} to {max:?} %");
//!     assert_eq!(group.refresh().status, RefreshStatus::Successful, "{context}");
//!     assert_eq!(group.extremes(), (ready, existing), "{context}");
//! }
//! ```
//!
//! # Checkpoints
//!
//! The example of AWS's user guide: ten instances, a minimum of 80 %, checkpoints at 20 and 50 %, a delay of 15 minutes,
//! a warm-up of ten. As the last checkpoint is below 100 %, half of the group keeps its version.
//!
//! ```
//! use instance_refresh::simulation::{Group, Version};
//! use instance_refresh::{Preferences, RefreshStatus};
//!
//! let mut group = Group::of(10).start(Preferences {
//!     min: 80,
//!     warmup: 600,
//!     checkpoints: vec![20, 50],
//!     checkpoint_delay: 900,
//!     ..Preferences::default()
//! });
//! // (minute, replaced so far, PercentageComplete)
//! for (minute, replaced, percent) in [
//!     (0, 2, 0),
//!     (9, 2, 0),
//!     (10, 2, 20), // the first checkpoint
//!     (24, 2, 20),
//!     (25, 4, 20),
//!     (34, 4, 20),
//!     (35, 5, 40),
//!     (44, 5, 40),
//!     (45, 5, 50), // the second, and the end
//! ] {
//!     while group.elapsed() < minute * 60 {
//!         group.run(1);
//!     }
//!     assert_eq!(group.serving(Version::New), replaced, "at minute {minute}");
//!     assert_eq!(group.refresh().percent, percent, "at minute {minute}");
//! }
//! assert_eq!(group.refresh().status, RefreshStatus::Successful);
//! assert_eq!(group.serving(Version::Old), 5);
//! assert_eq!(
//!     group.events(),
//!     [
//!         "0s Started",
//!         "600s Checkpoint Reached (20)",
//!         "2700s Checkpoint Reached (50)",
//!         "2700s Succeeded"
//!     ]
//! );
//! ```
//!
//! # Skip matching
//!
//! Members that have the desired configuration already are left alone. This continues a refresh that stopped at a
//! checkpoint.
//!
//! ```
//! use instance_refresh::Preferences;
//! use instance_refresh::simulation::{Group, Version};
//!
//! let preferences = Preferences {
//!     skip_matching: true,
//!     ..Preferences::default()
//! };
//! let group = Group::of(4).matching(3).start(preferences.clone());
//! assert_eq!(group.serving(Version::New), 4);
//! assert_eq!(group.refresh().launched.len(), 1);
//! assert!(group.refresh().matching.contains("i-1"));
//!
//! let group = Group::of(4).matching(4).start(preferences);
//! assert_eq!(group.events(), ["0s Succeeded"], "nothing is replaced");
//! ```
//!
//! # Bake time
//!
//! After the last replacement the refresh waits, and an alarm still ends it. The group keeps its saved template until
//! the refresh is successful.
//!
//! ```
//! use instance_refresh::simulation::{Group, Version};
//! use instance_refresh::{Preferences, RefreshStatus};
//!
//! let mut group = Group::of(2).start(Preferences {
//!     bake: 600,
//!     ..Preferences::default()
//! });
//! group.run(599);
//! assert_eq!(group.refresh().status, RefreshStatus::Baking);
//! assert_eq!(group.refresh().percent, 100);
//! assert_eq!(group.saved(), Version::Old);
//! group.run(1);
//! assert_eq!(group.refresh().status, RefreshStatus::Successful);
//! assert_eq!(group.saved(), Version::New);
//! ```
//!
//! # Auto rollback
//!
//! A refresh that fails, by an alarm or because it makes no progress for an hour, is undone: only what it replaced is
//! replaced again, by the saved template.
//!
//! ```
//! use instance_refresh::simulation::{Group, Version};
//! use instance_refresh::{AlarmState, Preferences, RefreshStatus};
//!
//! let mut group = Group::of(4).start(Preferences {
//!     bake: 600,
//!     alarms: vec!["errors".to_owned()],
//!     auto_rollback: true,
//!     ..Preferences::default()
//! });
//! assert_eq!(group.serving(Version::New), 4);
//! group.set_alarm("errors", AlarmState::Alarm);
//! assert_eq!(group.refresh().status, RefreshStatus::RollbackSuccessful);
//! assert_eq!(group.serving(Version::Old), 4);
//!
//! let mut group = Group::of(4).broken().start(Preferences {
//!     min: 100,
//!     max: Some(150),
//!     auto_rollback: true,
//!     ..Preferences::default()
//! });
//! assert_eq!(group.existing(), 6, "two that never come into service");
//! assert_eq!(group.finish(4000), RefreshStatus::RollbackSuccessful);
//! assert_eq!(group.elapsed(), 3600);
//! assert_eq!((group.serving(Version::Old), group.existing()), (4, 4));
//! let rollback = group.refresh().rollback.as_ref().expect("it was rolled back");
//! assert!(rollback.reason.contains("no progress for 3600 seconds"));
//! ```
//!
//! # Protected members, and those in standby
//!
//! By default the refresh waits for them, and its reason names the first. It fails when nobody comes.
//!
//! ```
//! use instance_refresh::simulation::{Group, Version};
//! use instance_refresh::{InStandby, Preferences, Protected, RefreshStatus};
//!
//! let mut group = Group::of(4).protected().start(Preferences::default());
//! assert_eq!(group.refresh().percent, 75);
//! let reason = group.refresh().reason.clone().expect("it waits");
//! assert!(reason.ends_with("i-1 is protected. Remove instance scale-in protection to continue."));
//! group.unprotect();
//! assert_eq!(group.refresh().status, RefreshStatus::Successful);
//!
//! for (protected, left) in [(Protected::Ignore, 1), (Protected::Refresh, 0)] {
//!     let group = Group::of(4).protected().start(Preferences {
//!         protected,
//!         ..Preferences::default()
//!     });
//!     assert_eq!(group.refresh().status, RefreshStatus::Successful, "{protected:?}");
//!     assert_eq!(group.serving(Version::Old), left, "{protected:?}");
//! }
//!
//! for (standby, end) in [
//!     (InStandby::Wait, RefreshStatus::Failed),
//!     (InStandby::Ignore, RefreshStatus::Successful),
//!     (InStandby::Terminate, RefreshStatus::Successful),
//! ] {
//!     let mut group = Group::of(3).standby().start(Preferences {
//!         standby,
//!         ..Preferences::default()
//!     });
//!     assert_eq!(group.finish(4000), end, "{standby:?}");
//!     assert_eq!(group.serving(Version::New), 3, "{standby:?}");
//! }
//! ```
//!
//! # Cancelling
//!
//! What was replaced stays replaced, and the group keeps its saved template.
//!
//! ```
//! use instance_refresh::simulation::{Group, Version};
//! use instance_refresh::{Preferences, RefreshStatus};
//!
//! let mut group = Group::of(4).start(Preferences {
//!     min: 50,
//!     warmup: 300,
//!     ..Preferences::default()
//! });
//! assert!(group.cancel(true));
//! assert_eq!(group.refresh().status, RefreshStatus::Cancelled);
//! assert_eq!((group.serving(Version::Old), group.serving(Version::New)), (2, 2));
//! assert_eq!(group.saved(), Version::Old);
//! assert!(!group.cancel(true), "it is over");
//! ```

mod advance;
mod decide;
mod preferences;
mod refresh;
pub mod simulation;
mod stall;
pub mod switches;
#[cfg(test)]
mod tests;

pub use advance::{Action, Candidate, Start};
pub use decide::{
    Decision, MemberView, Move, Role, View, after, allowance, decide, max_existing, min_working,
};
pub use preferences::{InStandby, Preferences, Protected};
pub use refresh::{
    AlarmState, Mark, Refresh, RefreshEvent, RefreshStatus, RollbackDetails, TemplateRef,
};
pub use stall::{Pace, StallClock};
