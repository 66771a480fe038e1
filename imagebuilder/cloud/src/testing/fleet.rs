//! The Auto Scaling group `shop` and its instance refreshes.

use jiff::Timestamp;

use super::*;

/// The group's launch template.
pub const TEMPLATE: &str = "lt-1";
/// The group's target group.
pub const TARGET_GROUP: &str = "arn:aws:elasticloadbalancing:us-east-1:1:targetgroup/shop/1";
/// The tag that Auto Scaling puts on members.
const GROUP_TAG: &str = "aws:autoscaling:groupName";

impl InMemoryAws {
    /// A group `shop` of `size` on version 7 of its launch template, with a launch hook and a target group: ami-1, the
    /// `current` image of `shop`. ami-2 is its `candidate`, and 6 is the template's default version.
    pub fn with_fleet(size: u32) -> Self {
        let aws = Self::default();
        {
            let mut state = aws.state();
            for image in ["ami-0", "ami-1", "ami-2"] {
                state.add_verified_image(image);
            }
            state.add_version(6, "ami-0");
            state.add_version(7, "ami-1");
            state.template.default = 6;
            state.template_exists = true;
            state.hooks.push(Hook {
                name: "gate".to_owned(),
                moment: HookMoment::Launching,
                default_result: "ABANDON".to_owned(),
                heartbeat_seconds: 300,
            });
            state.group = Some(group(size));
            for _ in 0..size {
                let member = state.launch_member(&version(7)).unwrap();
                state.group_mut().members.push(member);
            }
            state.activities.clear();
            state.point("candidate", "ami-2");
            state.point("current", "ami-1");
        }
        aws
    }
}

/// The group, without members.
fn group(size: u32) -> Group {
    Group {
        name: GroupName::parse("shop").unwrap(),
        size: Size {
            min: 0,
            max: size * 2,
            desired: size,
        },
        launches: GroupLaunches::Template {
            id: TEMPLATE.to_owned(),
            name: "shop".to_owned(),
            saved: SavedVersion::Number(7),
        },
        health: HealthSource::LoadBalancer,
        grace_seconds: 0,
        default_warmup_seconds: None,
        suspended: Vec::new(),
        target_groups: vec![TARGET_GROUP.to_owned()],
        has_traffic_source: true,
        warm_pool: false,
        members: Vec::new(),
    }
}

/// A version of the group's template.
fn version(version: u64) -> TemplateRef {
    TemplateRef {
        id: TEMPLATE.to_owned(),
        version,
    }
}

/// The tags that EC2 puts on an instance that is launched from a version.
fn launch_tags(from: &TemplateRef) -> Tags {
    let tags = [
        ("aws:ec2launchtemplate:id", from.id.clone()),
        ("aws:ec2launchtemplate:version", from.version.to_string()),
    ];
    tags.map(|(key, value)| (key.to_owned(), value)).into()
}

fn runs(member: &GroupMember, version: u64) -> bool {
    let own = member.template.as_ref();
    own.is_some_and(|own| own.version == version)
}

impl AwsState {
    /// The group, which must exist.
    pub fn group_mut(&mut self) -> &mut Group {
        self.group.as_mut().expect("there is a group")
    }

    /// How many members were launched from this version.
    pub fn on(&self, version: u64) -> usize {
        let members = self.group.iter().flat_map(|group| &group.members);
        members.filter(|member| runs(member, version)).count()
    }

    /// The version that the group is saved on.
    pub fn saved(&self) -> SavedVersion {
        match self.group.as_ref().map(|group| &group.launches) {
            Some(GroupLaunches::Template { saved, .. }) => *saved,
            other => panic!("no launch template: {other:?}"),
        }
    }

    /// Saves the group on a version.
    pub fn save(&mut self, version: SavedVersion) {
        if let GroupLaunches::Template { saved, .. } = &mut self.group_mut().launches {
            *saved = version;
        }
    }

    /// Starts a refresh to a version, with automatic rollback, as another user would.
    pub fn begin_refresh(&mut self, to: u64) {
        self.begin(&version(to), Vec::new(), true);
    }

    fn begin(
        &mut self,
        desired: &TemplateRef,
        checkpoints: Vec<u32>,
        auto_rollback: bool,
    ) -> String {
        let id = format!("r-{}", self.refreshes.len() + 1);
        self.origin = match self.saved() {
            SavedVersion::Number(number) => Some(version(number)),
            SavedVersion::Latest | SavedVersion::Default => None,
        };
        let refresh = Refresh {
            id: id.clone(),
            status: RefreshStatus::Pending,
            reason: String::new(),
            percent: 0,
            to_update: 0,
            started: Some(Timestamp::now()),
            desired: Some(desired.clone()),
            checkpoints,
            auto_rollback,
            rollback_reason: None,
        };
        self.refreshes.insert(0, refresh);
        id
    }

    /// Adds a scaling activity that begins now.
    pub fn add_activity(
        &mut self,
        description: &str,
        cause: &str,
        outcome: ActivityOutcome,
        message: &str,
    ) {
        let (action, instance) = Action::read(description);
        let activity = Activity {
            id: format!("a-{}", self.activities.len()),
            action,
            instance,
            description: description.to_owned(),
            cause: cause.to_owned(),
            outcome,
            message: message.to_owned(),
            started: Some(Timestamp::now()),
        };
        self.activities.insert(0, activity);
    }

    /// Adds an instance that was launched from a version of the template, outside the group.
    pub fn launch_outside_the_group(&mut self, from: u64) {
        let id = InstanceId::parse(format!("i-e{from}")).unwrap();
        self.insert_instance(id, None, launch_tags(&version(from)));
    }

    /// Running instances of the group.
    pub(super) fn members_running(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values().filter(|instance| {
            instance.tags.contains_key(GROUP_TAG) && instance.state == InstanceState::Running
        })
    }

    /// Launches an instance of this version for the group; none when it ABANDONs its launch hook.
    fn launch_member(&mut self, from: &TemplateRef) -> Option<GroupMember> {
        let image = self.version(from.version).unwrap().image.literal();
        let image = image.unwrap().clone();
        self.launched += 1;
        let instance = InstanceId::parse(format!("i-{}", self.launched)).unwrap();
        let unhealthy = self.unhealthy.contains(&image);
        let (outcome, message) = match unhealthy {
            true => (
                ActivityOutcome::Failed,
                "Lifecycle Action Completed with ABANDON Result",
            ),
            false => (ActivityOutcome::Done, ""),
        };
        self.add_activity(
            &format!("Launching a new EC2 instance: {instance}"),
            "At 2026-01-01T00:00:00Z an instance was launched in response to an instance refresh.",
            outcome,
            message,
        );
        if unhealthy {
            let reason = "orders: /gtg answers 503";
            self.record("shop", &instance, &image, Verdict::Unfit, reason);
            return None;
        }
        self.record("shop", &instance, &image, Verdict::Fit, "");
        let mut tags = launch_tags(from);
        tags.insert(GROUP_TAG.to_owned(), "shop".to_owned());
        self.insert_instance(instance.clone(), Some(image), tags);
        Some(GroupMember {
            instance,
            lifecycle: Lifecycle::InService,
            healthy: true,
            template: Some(from.clone()),
            protected: false,
        })
    }

    /// One step of the active refresh.
    fn turn(&mut self) {
        let is_active = |refresh: &&Refresh| !refresh.status.is_over();
        let Some(mut refresh) = self.refreshes.first().filter(is_active).cloned() else {
            return;
        };
        match self.statuses.pop_front() {
            Some(status) => refresh.status = status,
            None => self.step(&mut refresh),
        }
        self.refreshes[0] = refresh;
    }

    fn step(&mut self, refresh: &mut Refresh) {
        let desired = refresh.desired.clone().unwrap();
        match refresh.status {
            RefreshStatus::Pending => refresh.status = RefreshStatus::InProgress,
            RefreshStatus::Cancelling => refresh.status = RefreshStatus::Cancelled,
            RefreshStatus::RollbackInProgress => {
                let origin = self.origin.clone().unwrap();
                if !self.replace(&origin) {
                    refresh.status = RefreshStatus::RollbackSuccessful;
                    refresh.percent = 0;
                }
            }
            _ => {
                let went_on = self.replace(&desired);
                let all = self.group_mut().members.len().max(1);
                refresh.percent = u32::try_from(self.on(desired.version) * 100 / all).unwrap();
                if !went_on {
                    refresh.status = RefreshStatus::Successful;
                    refresh.percent = 100;
                    self.save(SavedVersion::Number(desired.version));
                }
            }
        }
    }

    /// Replaces one member of another version; false when there is none left.
    fn replace(&mut self, desired: &TemplateRef) -> bool {
        let other = |member: &GroupMember| !runs(member, desired.version) && !member.protected;
        let Some(at) = self.group_mut().members.iter().position(other) else {
            return false;
        };
        if let Some(new) = self.launch_member(desired) {
            let old = std::mem::replace(&mut self.group_mut().members[at], new);
            self.end_instance(&old.instance);
        }
        true
    }

    fn active(&mut self) -> Answer<&mut Refresh> {
        self.refreshes
            .first_mut()
            .filter(|refresh| !refresh.status.is_over())
            .ok_or_else(|| failure(NO_ACTIVE_REFRESH))
    }
}

#[async_trait]
impl Fleet for InMemoryAws {
    async fn groups_from(&self, _template_id: &str) -> Answer<Vec<GroupName>> {
        self.read("groups_from", |aws| {
            let own = aws.group.iter().map(|group| group.name.clone());
            Ok(own.chain(aws.other_groups.clone()).collect())
        })
        .await
    }

    async fn group(&self, name: &GroupName) -> Answer<Option<Group>> {
        self.read("group", |aws| {
            Ok(aws.group.clone().filter(|group| group.name == *name))
        })
        .await
    }

    async fn hooks(&self, _group: &GroupName) -> Answer<Vec<Hook>> {
        self.read("hooks", |aws| Ok(aws.hooks.clone())).await
    }

    async fn refreshes(&self, _group: &GroupName) -> Answer<Vec<Refresh>> {
        self.read("refreshes", |aws| {
            if aws.group.is_some() {
                aws.turn();
            }
            Ok(aws.refreshes.clone())
        })
        .await
    }

    async fn refresh(&self, group: &GroupName, id: &str) -> Answer<Option<Refresh>> {
        self.read("refresh", |aws| {
            if aws.group.as_ref().is_none_or(|own| own.name != *group) {
                return Err(CloudError::new(
                    Kind::Invalid,
                    "describe refresh",
                    "ValidationError",
                    "AutoScalingGroup name not found",
                ));
            }
            aws.turn();
            let mut all = aws.refreshes.iter();
            Ok(all.find(|refresh| refresh.id == id).cloned())
        })
        .await
    }

    async fn activities(&self, _group: &GroupName, next: Option<&str>) -> Answer<Activities> {
        const PAGE: usize = 100;
        self.read("activities", |aws| {
            let from: usize = next.map_or(0, |next| next.parse().unwrap());
            let rest = aws.activities.iter().skip(from);
            let page: Vec<Activity> = rest.take(PAGE).cloned().collect();
            let more = from + page.len() < aws.activities.len();
            let next = more.then(|| (from + PAGE).to_string());
            Ok(Activities { page, next })
        })
        .await
    }

    async fn start_refresh(
        &self,
        _group: &GroupName,
        desired: &TemplateRef,
        preferences: &Preferences,
    ) -> Answer<String> {
        self.change("start_refresh", |aws| {
            if aws.active().is_ok() {
                return Err(failure(REFRESH_IN_PROGRESS));
            }
            aws.preferences.push(preferences.clone());
            let checkpoints = preferences.checkpoints.clone();
            Ok(aws.begin(desired, checkpoints, preferences.auto_rollback))
        })
        .await
    }

    async fn roll_back(&self, _group: &GroupName) -> Answer<()> {
        self.change("roll_back", |aws| {
            let reversible = aws.origin.is_some();
            let refresh = aws.active()?;
            if !reversible {
                return Err(failure(IRREVERSIBLE));
            }
            refresh.status = RefreshStatus::RollbackInProgress;
            Ok(())
        })
        .await
    }

    async fn cancel_refresh(&self, _group: &GroupName) -> Answer<()> {
        self.change("cancel_refresh", |aws| {
            aws.active()?.status = RefreshStatus::Cancelling;
            Ok(())
        })
        .await
    }

    async fn save_version(&self, _group: &GroupName, version: &TemplateRef) -> Answer<()> {
        self.change("save_version", |aws| {
            aws.save(SavedVersion::Number(version.version));
            Ok(())
        })
        .await
    }
}
