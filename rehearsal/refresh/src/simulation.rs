//! A group in memory on a virtual clock, for examples and tests: it carries out what a refresh decides.
//!
//! Its instances are in service one step after their launch, and removed at once. What a real group adds (hooks, load
//! balancers, launches that are refused) is left to the caller.

use jiff::Timestamp;

use crate::advance::{Action, Candidate, Start};
use crate::decide::{MemberView, Role, View, after, allowance};
use crate::preferences::Preferences;
use crate::refresh::{AlarmState, Refresh, RefreshStatus, TemplateRef};
use crate::switches::Switches;

/// The two template versions of a simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Saved in the group when the refresh starts.
    Old,
    /// What the refresh introduces.
    New,
}

impl Version {
    fn template(self) -> TemplateRef {
        TemplateRef {
            id: "lt-1".to_owned(),
            name: "shop".to_owned(),
            version: match self {
                Self::Old => "1",
                Self::New => "2",
            }
            .to_owned(),
        }
    }
}

/// A member of the simulated group.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    id: String,
    version: Version,
    /// In service since then; pending when `None`.
    in_service: Option<Timestamp>,
    protected: bool,
    standby: bool,
}

/// A group at rest, before its refresh starts. Its members are `i-1`, `i-2` and so on.
#[derive(Clone, Debug)]
pub struct Group {
    members: Vec<Member>,
    switches: Switches,
    alarms: Vec<(String, AlarmState)>,
    broken: bool,
}

impl Group {
    /// A group of `desired` members that work and have the old version. Its maximum size is twice that and ten more.
    pub fn of(desired: u32) -> Self {
        let members = (1..=desired).map(|number| Member {
            id: format!("i-{number}"),
            version: Version::Old,
            in_service: Some(Timestamp::UNIX_EPOCH),
            protected: false,
            standby: false,
        });
        Self {
            members: members.collect(),
            switches: Switches::default(),
            alarms: Vec::new(),
            broken: false,
        }
    }

    /// With this many of its members on the new version already.
    #[must_use]
    pub fn matching(mut self, count: usize) -> Self {
        for member in self.members.iter_mut().take(count) {
            member.version = Version::New;
        }
        self
    }

    /// With the first member protected from scale-in.
    #[must_use]
    pub fn protected(mut self) -> Self {
        if let Some(member) = self.members.first_mut() {
            member.protected = true;
        }
        self
    }

    /// With one member more, in standby, which does not count towards desired capacity.
    #[must_use]
    pub fn standby(mut self) -> Self {
        self.members.push(Member {
            id: format!("i-{}", self.members.len() + 1),
            version: Version::Old,
            in_service: Some(Timestamp::UNIX_EPOCH),
            protected: false,
            standby: true,
        });
        self
    }

    /// With a new version whose instances never come into service.
    #[must_use]
    pub fn broken(mut self) -> Self {
        self.broken = true;
        self
    }

    /// With these values where AWS leaves the behavior open.
    #[must_use]
    pub fn switches(mut self, switches: Switches) -> Self {
        self.switches = switches;
        self
    }

    /// Starts a refresh to the new version; the alarms of the preferences are `OK`.
    pub fn start(mut self, preferences: Preferences) -> Simulation {
        let now = Timestamp::UNIX_EPOCH;
        let candidate = |member: &Member| Candidate {
            id: member.id.clone(),
            matches: member.version == Version::New,
            protected: member.protected,
            standby: member.standby,
        };
        let ok = |name: &String| (name.clone(), AlarmState::Ok);
        self.alarms = preferences.alarms.iter().map(ok).collect();
        let start = Start {
            id: "refresh-1".to_owned(),
            preferences,
            desired: Some(Version::New.template()),
            target: Version::New.template(),
            previous: Version::Old.template(),
            irreversible: None,
            members: self.members.iter().map(candidate).collect(),
        };
        let counted = self.members.iter().filter(|m| !m.standby).count();
        let mut simulation = Simulation {
            refresh: Refresh::start(start, now),
            desired: u32::try_from(counted).unwrap_or(u32::MAX),
            launched: self.members.len(),
            group: self,
            saved: Version::Old,
            now,
            least: u32::MAX,
            most: 0,
        };
        simulation.settle();
        simulation
    }
}

/// A group while it is refreshed.
#[derive(Clone, Debug)]
pub struct Simulation {
    refresh: Refresh,
    group: Group,
    desired: u32,
    /// The group's saved version.
    saved: Version,
    /// Instances launched so far.
    launched: usize,
    now: Timestamp,
    least: u32,
    most: u32,
}

impl Simulation {
    /// The refresh.
    pub fn refresh(&self) -> &Refresh {
        &self.refresh
    }

    /// Members in service with this version, without those in standby.
    pub fn serving(&self, version: Version) -> u32 {
        self.count(|m| m.version == version && m.in_service.is_some() && !m.standby)
    }

    /// Members that count towards desired capacity, pending ones included.
    pub fn existing(&self) -> u32 {
        self.count(|m| !m.standby)
    }

    /// The lowest number of members that were ready so far (in service, and warm where they are new), and the highest
    /// number of members.
    pub fn extremes(&self) -> (u32, u32) {
        (self.least, self.most)
    }

    /// The version that the group has saved for its next launches.
    pub fn saved(&self) -> Version {
        self.saved
    }

    /// The events so far, each with the seconds since the start.
    pub fn events(&self) -> Vec<String> {
        let since = |at: Timestamp| at.duration_since(Timestamp::UNIX_EPOCH).as_secs();
        let events = self.refresh.events.iter();
        events
            .map(|event| format!("{}s {}", since(event.at), event.what))
            .collect()
    }

    /// Sets the state of an alarm.
    pub fn set_alarm(&mut self, name: &str, state: AlarmState) {
        for (known, current) in &mut self.group.alarms {
            if known == name {
                *current = state;
            }
        }
        self.settle();
    }

    /// Removes the scale-in protection of every member.
    pub fn unprotect(&mut self) {
        for member in &mut self.group.members {
            member.protected = false;
        }
        self.settle();
    }

    /// Ends the member at this position, as a failed host does; nothing when there is none.
    pub fn lose(&mut self, position: usize) {
        if position < self.group.members.len() {
            self.group.members.remove(position);
        }
        self.settle();
    }

    /// Cancels the refresh; see [`Refresh::cancel`].
    pub fn cancel(&mut self, wait: bool) -> bool {
        let accepted = self.refresh.cancel(wait);
        self.settle();
        accepted
    }

    /// Lets this many seconds pass.
    pub fn run(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.now = after(self.now, 1);
            self.settle();
        }
    }

    /// Lets this many seconds pass in one step, in which the group is not observed.
    pub fn skip(&mut self, seconds: u32) {
        self.now = after(self.now, seconds.into());
        self.settle();
    }

    /// Lets time pass until the refresh is over, at most this many seconds; returns its status.
    pub fn finish(&mut self, seconds: u32) -> RefreshStatus {
        for _ in 0..seconds {
            if !self.refresh.status.is_active() {
                break;
            }
            self.run(1);
        }
        self.refresh.status
    }

    /// Seconds since the start.
    pub fn elapsed(&self) -> i64 {
        self.now.duration_since(Timestamp::UNIX_EPOCH).as_secs()
    }

    /// Steps at this instant until nothing changes any more.
    fn settle(&mut self) {
        // Bounded, so that an engine that launched and terminated forever would fail a test instead of hanging it.
        for _ in 0..10_000 {
            let before = (self.refresh.clone(), self.group.members.clone());
            self.step();
            if before.0 == self.refresh && before.1 == self.group.members {
                return;
            }
        }
    }

    fn step(&mut self) {
        for member in &mut self.group.members {
            let works = !(self.group.broken && member.version == Version::New);
            if works && member.in_service.is_none() {
                member.in_service = Some(self.now);
            }
        }
        let view = self.view();
        for action in self.refresh.advance(&view, self.now, &self.group.switches) {
            self.carry_out(action);
        }
        self.keep_size();
        let members = self.view().members;
        let ready = members
            .iter()
            .filter(|m| m.in_service && (m.warm || m.role != Role::New));
        self.least = self
            .least
            .min(u32::try_from(ready.count()).unwrap_or(u32::MAX));
        self.most = self.most.max(self.existing());
    }

    fn view(&self) -> View {
        let preferences = &self.refresh.preferences;
        let counted = self.group.members.iter().filter(|m| !m.standby);
        let standby = self.group.members.iter().filter(|m| m.standby);
        View {
            desired: self.desired,
            max_size: 2 * self.desired + 10,
            members: counted
                .map(|member| MemberView {
                    id: member.id.clone(),
                    role: self.refresh.role(&member.id, member.protected),
                    in_service: member.in_service.is_some(),
                    healthy: true,
                    warm: member
                        .in_service
                        .is_some_and(|since| self.now >= after(since, preferences.warmup.into())),
                    protected: member.protected,
                })
                .collect(),
            standby: standby
                .filter(|member| self.refresh.role(&member.id, false) == Role::Old)
                .map(|member| member.id.clone())
                .collect(),
            removing: false,
            alarms: self.group.alarms.clone(),
            suspended: false,
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Terminate(id) => self.group.members.retain(|member| member.id != id),
            Action::Launch => self.launch(),
            Action::Ended(RefreshStatus::Successful) => self.saved = Version::New,
            Action::Ended(_) => {}
            Action::RollBack(why) => {
                let members = &self.group.members;
                let remains = |id: &str| members.iter().any(|member| member.id == id);
                self.refresh.roll_back(why, remains, self.now);
            }
        }
    }

    /// Launches what is missing, and removes what is too much.
    fn keep_size(&mut self) {
        let allowed = if self.refresh.status.is_active() {
            allowance(&self.refresh, &self.view(), self.now, &self.group.switches)
        } else {
            self.desired
        };
        while self.existing() < self.desired {
            self.launch();
        }
        while self.existing() > allowed {
            let counted = || self.group.members.iter().filter(|m| !m.standby);
            let pending = counted().find(|m| m.in_service.is_none());
            let Some(id) = pending.or(counted().next()).map(|m| m.id.clone()) else {
                return;
            };
            self.group.members.retain(|member| member.id != id);
        }
    }

    fn launch(&mut self) {
        self.launched += 1;
        let id = format!("i-{}", self.launched);
        let refreshing = matches!(
            self.refresh.status,
            RefreshStatus::Pending | RefreshStatus::InProgress | RefreshStatus::Baking
        );
        let version = if refreshing { Version::New } else { self.saved };
        if self.refresh.status.is_active() {
            self.refresh.adopt(&id);
        }
        self.group.members.push(Member {
            id,
            version,
            in_service: None,
            protected: false,
            standby: false,
        });
    }

    fn count(&self, which: impl Fn(&Member) -> bool) -> u32 {
        let found = self.group.members.iter().filter(|m| which(m)).count();
        u32::try_from(found).unwrap_or(u32::MAX)
    }
}
