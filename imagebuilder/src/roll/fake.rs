//! A small in-memory Auto Scaling service with fault injection: unhealthy images, failed calls, lost answers, and calls that never return.
//!
//! A refresh moves one step each time it is listed, so time is counted in polls. It keeps to what AWS documents as far as
//! the tests of [`drive`](super::drive) rely on it; the faithful one is the rehearsal cloud.

mod rest;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use contract::registry::{Record, SCHEMA, Verdict};
use jiff::Timestamp;
use tokio::sync::Notify;

use super::sample;
use cloud::ids::*;
use cloud::*;

/// The fault of one call.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// It fails and nothing was done.
    Refused(CloudError),
    /// It is done, and its answer is lost.
    AnswerLost,
    /// It never returns, and nothing was done.
    Hangs,
    /// It is done and never returns: the caller was killed before it received the answer.
    HangsAfter,
}

/// A change by others that is made during a call.
type Meanwhile = (&'static str, fn(&mut State));

/// The state of the fake.
#[derive(Debug)]
pub(super) struct State {
    pub(super) group: Group,
    pub(super) hooks: Vec<Hook>,
    pub(super) template: Template,
    pub(super) images: BTreeMap<ImageId, Image>,
    pub(super) running: BTreeMap<InstanceId, ImageId>,
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) refreshes: Vec<Refresh>,
    /// What each refresh was started with, oldest first.
    pub(super) preferences: Vec<Preferences>,
    pub(super) activities: Vec<Activity>,
    /// Images whose instances ABANDON their launch hook.
    pub(super) unhealthy: BTreeSet<ImageId>,
    /// Images whose instances join and then fail the load balancer's health checks.
    pub(super) limping: BTreeSet<ImageId>,
    /// Statuses that the active refresh has at the next polls instead of its own.
    pub(super) statuses: VecDeque<RefreshStatus>,
    /// Other groups that launch from the template.
    pub(super) other_groups: Vec<GroupName>,
    /// Versions that instances outside the group were launched from.
    pub(super) launched_elsewhere: Vec<u64>,
    /// Whether the launch template was deleted.
    pub(super) template_gone: bool,
    /// The shape of new template versions, when it differs from their source's.
    pub(super) misshapen: Option<String>,
    /// The schema of the records that agents write.
    pub(super) schema: u32,
    /// What the caller may do.
    pub(super) policy: cloud::testing::Policy,
    /// States of alarms.
    pub(super) alarms: BTreeMap<String, String>,
    /// Every call, in order.
    pub(super) calls: Vec<&'static str>,
    /// Faults by the name of the call.
    pub(super) faults: BTreeMap<&'static str, VecDeque<Fault>>,
    /// The call, counted from 1, that hangs whatever it is, and how.
    pub(super) killed_at: Option<(usize, Fault)>,
    /// Changes by others, made during the call of this name.
    pub(super) meanwhile: Option<Meanwhile>,
    instances: u32,
    tokens: BTreeMap<String, u64>,
    origin: Option<TemplateRef>,
}

/// The service. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(super) struct Service(Arc<Mutex<State>>, Arc<Notify>);

impl Service {
    /// A group of `size` on version 7 with ami-1, which is `current`; ami-2 is a verified candidate.
    pub(super) fn new(size: u32) -> Self {
        let view = sample::fleet(size, 7, "ami-1");
        let template = sample::template(&mut view.clone()).clone();
        let members = view.members.iter().map(|member| GroupMember {
            instance: member.instance.clone(),
            lifecycle: member.lifecycle.clone(),
            healthy: true,
            template: member.template.clone(),
            protected: false,
        });
        let mut state = State {
            group: Group {
                name: view.group.clone(),
                size: view.size,
                launches: GroupLaunches::Template {
                    id: template.id,
                    name: template.name,
                    saved: SavedVersion::Number(7),
                },
                health: view.health,
                grace_seconds: 0,
                default_warmup_seconds: None,
                suspended: Vec::new(),
                target_groups: view.target_groups.clone(),
                has_traffic_source: true,
                warm_pool: false,
                members: members.collect(),
            },
            hooks: view.hooks,
            template: Template {
                versions: template.versions,
                latest: 7,
                default: 6,
            },
            images: BTreeMap::new(),
            running: BTreeMap::new(),
            parameters: BTreeMap::new(),
            refreshes: Vec::new(),
            preferences: Vec::new(),
            activities: Vec::new(),
            unhealthy: BTreeSet::new(),
            limping: BTreeSet::new(),
            statuses: VecDeque::new(),
            other_groups: Vec::new(),
            launched_elsewhere: Vec::new(),
            template_gone: false,
            misshapen: None,
            schema: SCHEMA,
            policy: cloud::testing::Policy::default(),
            alarms: BTreeMap::new(),
            calls: Vec::new(),
            faults: BTreeMap::new(),
            killed_at: None,
            meanwhile: None,
            instances: size,
            tokens: BTreeMap::new(),
            origin: None,
        };
        for id in ["ami-0", "ami-1", "ami-2"] {
            state.add_image(id);
        }
        for member in state.group.members.clone() {
            state
                .running
                .insert(member.instance.clone(), sample::image("ami-1"));
            state.record(&member.instance, "ami-1", Verdict::Fit, "");
        }
        state.point("candidate", "ami-2");
        state.point("current", "ami-1");
        Self(Arc::new(Mutex::new(state)), Arc::new(Notify::new()))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notified when a call hangs.
    pub(super) fn hung(&self) -> Arc<Notify> {
        self.1.clone()
    }

    /// Makes the next call of this name go wrong.
    pub(super) fn fault(&self, call: &'static str, fault: Fault) {
        self.state()
            .faults
            .entry(call)
            .or_default()
            .push_back(fault);
    }

    /// The service as the cloud.
    pub(super) fn cloud(&self) -> Cloud {
        Cloud {
            region: "us-east-1".into(),
            ec2_endpoint: None,
            identity: Arc::new(self.clone()),
            images: Arc::new(self.clone()),
            instances: Arc::new(self.clone()),
            parameters: Arc::new(self.clone()),
            fleet: Arc::new(self.clone()),
            templates: Arc::new(self.clone()),
            targets: Arc::new(self.clone()),
            permissions: Arc::new(self.clone()),
            alarms: Arc::new(self.clone()),
        }
    }

    /// One call: counted, failed as arranged, else done.
    async fn call<T>(
        &self,
        name: &'static str,
        act: impl FnOnce(&mut State) -> Answer<T>,
    ) -> Answer<T> {
        let (fault, answer) = {
            let mut state = self.state();
            state.calls.push(name);
            if let Some((at, _)) = state.meanwhile
                && at == name
                && let Some((_, happens)) = state.meanwhile.take()
            {
                happens(&mut state);
            }
            let count = state.calls.len();
            let killed = state
                .killed_at
                .clone()
                .filter(|(at, _)| *at == count)
                .map(|(_, fault)| fault);
            let fault = killed.or_else(|| state.faults.get_mut(name).and_then(VecDeque::pop_front));
            match fault {
                Some(Fault::Refused(error)) => return Err(error),
                Some(Fault::Hangs) => (fault, None),
                _ => (fault, Some(act(&mut state))),
            }
        };
        match (fault, answer) {
            (Some(Fault::Hangs | Fault::HangsAfter), _) | (_, None) => {
                self.1.notify_one();
                std::future::pending().await
            }
            (Some(Fault::AnswerLost), _) => Err(CloudError::new(
                Kind::Unreachable,
                name,
                "",
                "connection reset",
            )),
            (_, Some(answer)) => answer,
        }
    }
}

/// A transient fault.
pub(super) fn throttled() -> CloudError {
    CloudError::new(Kind::Throttled, "ask", "Throttling", "Rate exceeded")
}

/// A permanent fault of this code.
pub(super) fn meant(code: &str) -> CloudError {
    CloudError::new(Kind::Other, "ask", code, "no")
}

impl State {
    pub(super) fn add_image(&mut self, id: &str) {
        let image = Image {
            id: sample::image(id),
            name: format!("shop-{id}"),
            created: "2026-01-01T00:00:00Z".into(),
            state: ImageState::Available,
            architecture: "x86_64".into(),
            owner: "123456789012".into(),
            source_instance: None,
            devices: Vec::new(),
            snapshots: Vec::new(),
            tags: BTreeMap::from([(contract::tags::VERDICT.to_owned(), "fit".to_owned())]),
        };
        self.images.insert(image.id.clone(), image);
    }

    pub(super) fn point(&mut self, pointer: &str, image: &str) {
        self.parameters
            .insert(format!("/imagebuilder/shop/{pointer}"), image.into());
    }

    pub(super) fn pointer(&self, pointer: &str) -> Option<&str> {
        self.parameters
            .get(&format!("/imagebuilder/shop/{pointer}"))
            .map(String::as_str)
    }

    fn record(&mut self, instance: &InstanceId, image: &str, verdict: Verdict, reason: &str) {
        let record = Record {
            schema: self.schema,
            instance_id: instance.to_string(),
            image_id: image.into(),
            verdict,
            reason: reason.into(),
            since: "2026-01-01T00:00:00Z".into(),
            agent: "0.1.0".into(),
            services: BTreeMap::new(),
        };
        let name = contract::names::registry_parameter("shop", instance.as_str());
        self.parameters
            .insert(name, serde_json::to_string(&record).unwrap());
    }

    /// Members that are in service on this version.
    pub(super) fn on(&self, version: u64) -> usize {
        self.group
            .members
            .iter()
            .filter(|member| runs(member, version))
            .count()
    }

    /// The number the group is saved on.
    pub(super) fn saved(&self) -> SavedVersion {
        match self.group.launches {
            GroupLaunches::Template { saved, .. } => saved,
            _ => panic!("the fake has a launch template"),
        }
    }

    pub(super) fn save(&mut self, version: SavedVersion) {
        if let GroupLaunches::Template { saved, .. } = &mut self.group.launches {
            *saved = version;
        }
    }

    pub(super) fn begin(
        &mut self,
        desired: &TemplateRef,
        checkpoints: Vec<u32>,
        auto_rollback: bool,
    ) -> String {
        let id = format!("r-{}", self.refreshes.len() + 1);
        self.origin = match self.saved() {
            SavedVersion::Number(version) => Some(TemplateRef {
                id: desired.id.clone(),
                version,
            }),
            _ => None,
        };
        self.refreshes.insert(
            0,
            Refresh {
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
            },
        );
        id
    }

    fn new_instance(&mut self) -> InstanceId {
        self.instances += 1;
        sample::instance(&format!("i-{}", self.instances))
    }

    /// Launches an instance of this version; whether it joined.
    fn launch(&mut self, version: u64) -> Option<InstanceId> {
        let image = self
            .template
            .versions
            .iter()
            .find(|known| known.number == version)
            .and_then(|known| known.image.literal())
            .cloned()
            .unwrap();
        let instance = self.new_instance();
        let unhealthy = self.unhealthy.contains(&image);
        self.activities.insert(
            0,
            Activity {
                id: format!("a-{instance}"),
                action: Action::Launch,
                instance: Some(instance.clone()),
                description: format!("Launching a new EC2 instance: {instance}"),
                cause: "At 2026-01-01T00:00:00Z an instance was launched in response to an instance refresh."
                    .into(),
                outcome: if unhealthy {
                    ActivityOutcome::Failed
                } else {
                    ActivityOutcome::Done
                },
                message: if unhealthy {
                    "Lifecycle Action Completed with ABANDON Result".into()
                } else {
                    String::new()
                },
                started: Some(Timestamp::now()),
            },
        );
        if unhealthy {
            self.record(
                &instance,
                image.as_str(),
                Verdict::Unfit,
                "orders: /gtg answers 503",
            );
            return None;
        }
        self.record(&instance, image.as_str(), Verdict::Fit, "");
        self.running.insert(instance.clone(), image);
        Some(instance)
    }

    /// One step of the active refresh.
    fn turn(&mut self) {
        if self
            .refreshes
            .first()
            .is_none_or(|refresh| refresh.status.is_over())
        {
            return;
        }
        let mut refresh = self.refreshes.remove(0);
        if let Some(status) = self.statuses.pop_front() {
            refresh.status = status;
        } else {
            self.step(&mut refresh);
        }
        self.refreshes.insert(0, refresh);
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
                let all = self.group.members.len().max(1);
                refresh.percent = u32::try_from(self.on(desired.version) * 100 / all).unwrap();
                if !went_on {
                    refresh.status = RefreshStatus::Successful;
                    refresh.percent = 100;
                    self.save(SavedVersion::Number(desired.version));
                }
            }
        }
    }

    /// Replaces one member that does not match; false when there is none left.
    fn replace(&mut self, desired: &TemplateRef) -> bool {
        let Some(at) = self
            .group
            .members
            .iter()
            .position(|member| !runs(member, desired.version) && !member.protected)
        else {
            return false;
        };
        if let Some(instance) = self.launch(desired.version) {
            let old = std::mem::replace(
                &mut self.group.members[at],
                GroupMember {
                    instance,
                    lifecycle: Lifecycle::InService,
                    healthy: true,
                    template: Some(desired.clone()),
                    protected: false,
                },
            );
            self.running.remove(&old.instance);
        }
        true
    }

    fn active(&mut self) -> Answer<&mut Refresh> {
        self.refreshes
            .first_mut()
            .filter(|refresh| !refresh.status.is_over())
            .ok_or_else(|| meant(NO_ACTIVE_REFRESH))
    }
}

fn runs(member: &GroupMember, version: u64) -> bool {
    member
        .template
        .as_ref()
        .is_some_and(|own| own.version == version)
}

#[async_trait]
impl Fleet for Service {
    async fn groups_from(&self, _template_id: &str) -> Answer<Vec<GroupName>> {
        self.call("groups_from", |state| {
            let own = std::iter::once(state.group.name.clone());
            Ok(own.chain(state.other_groups.clone()).collect())
        })
        .await
    }

    async fn group(&self, group: &GroupName) -> Answer<Option<Group>> {
        self.call("group", |state| {
            Ok((state.group.name == *group).then(|| state.group.clone()))
        })
        .await
    }

    async fn hooks(&self, _group: &GroupName) -> Answer<Vec<Hook>> {
        self.call("hooks", |state| Ok(state.hooks.clone())).await
    }

    async fn refreshes(&self, _group: &GroupName) -> Answer<Vec<Refresh>> {
        self.call("refreshes", |state| {
            state.turn();
            Ok(state.refreshes.clone())
        })
        .await
    }

    async fn refresh(&self, group: &GroupName, id: &str) -> Answer<Option<Refresh>> {
        self.call("refresh", |state| {
            if state.group.name != *group {
                return Err(CloudError::new(
                    Kind::Invalid,
                    "describe refresh",
                    "ValidationError",
                    "AutoScalingGroup name not found",
                ));
            }
            state.turn();
            Ok(state
                .refreshes
                .iter()
                .find(|refresh| refresh.id == id)
                .cloned())
        })
        .await
    }

    async fn activities(&self, _group: &GroupName, next: Option<&str>) -> Answer<Activities> {
        const PAGE: usize = 100;
        self.call("activities", |state| {
            let from: usize = next.map_or(0, |next| next.parse().unwrap());
            let page: Vec<Activity> = state
                .activities
                .iter()
                .skip(from)
                .take(PAGE)
                .cloned()
                .collect();
            let next =
                (from + page.len() < state.activities.len()).then(|| (from + PAGE).to_string());
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
        self.call("start_refresh", |state| {
            if state.active().is_ok() {
                return Err(meant(REFRESH_IN_PROGRESS));
            }
            state.preferences.push(preferences.clone());
            Ok(state.begin(
                desired,
                preferences.checkpoints.clone(),
                preferences.auto_rollback,
            ))
        })
        .await
    }

    async fn roll_back(&self, _group: &GroupName) -> Answer<()> {
        self.call("roll_back", |state| {
            let reversible = state.origin.is_some();
            let refresh = state.active()?;
            if !reversible {
                return Err(meant(IRREVERSIBLE));
            }
            refresh.status = RefreshStatus::RollbackInProgress;
            Ok(())
        })
        .await
    }

    async fn cancel_refresh(&self, _group: &GroupName) -> Answer<()> {
        self.call("cancel_refresh", |state| {
            state.active()?.status = RefreshStatus::Cancelling;
            Ok(())
        })
        .await
    }

    async fn save_version(&self, _group: &GroupName, version: &TemplateRef) -> Answer<()> {
        self.call("save_version", |state| {
            state.save(SavedVersion::Number(version.version));
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl LaunchTemplates for Service {
    async fn template(&self, _id: &str) -> Answer<Option<Template>> {
        self.call("template", |state| {
            Ok((!state.template_gone).then(|| state.template.clone()))
        })
        .await
    }

    async fn make_version(&self, version: &NewVersion) -> Answer<Owned<TemplateRef>> {
        let owned = |number| {
            Owned::for_test(TemplateRef {
                id: version.template_id.clone(),
                version: number,
            })
        };
        self.call("make_version", |state| {
            if let Some(number) = state.tokens.get(&version.token) {
                return Ok(owned(*number));
            }
            let number = state.template.latest + 1;
            state.template.latest = number;
            let mut made = sample::version(number, version.image.as_str(), &version.description);
            if let Some(shape) = &state.misshapen {
                made.shape.clone_from(shape);
            }
            state.template.versions.push(made);
            state.tokens.insert(version.token.clone(), number);
            Ok(owned(number))
        })
        .await
    }

    async fn delete_version(&self, version: &Owned<TemplateRef>) -> Answer<()> {
        self.call("delete_version", |state| {
            let number = version.id().version;
            assert_ne!(number, state.template.default, "EC2 refuses it");
            state.template.versions.retain(|one| one.number != number);
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl TargetGroups for Service {
    async fn health(&self, _arn: &str) -> Answer<Vec<(InstanceId, TargetHealth)>> {
        self.call("health", |state| {
            let healthy = |image: &ImageId| !state.limping.contains(image);
            Ok(state
                .running
                .iter()
                .map(|(instance, image)| {
                    let (state, reason) = if healthy(image) {
                        ("healthy", "")
                    } else {
                        ("unhealthy", "Target.Timeout")
                    };
                    (
                        instance.clone(),
                        TargetHealth {
                            state: state.into(),
                            reason: reason.into(),
                        },
                    )
                })
                .collect())
        })
        .await
    }

    async fn drain_seconds(&self, _arn: &str) -> Answer<u32> {
        self.call("drain_seconds", |_| Ok(300)).await
    }
}
