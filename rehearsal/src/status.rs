//! The contents of a cloud, for `rehearsal status`.
//!
//! Owns the JSON of `rehearsal status --json` and the tables of `rehearsal status`. It changes nothing.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::account::REGION;
use crate::autoscaling;
use crate::autoscaling::groups::Group as ScalingGroup;
use crate::cloud::State;
use crate::control::DaemonInfo;
use crate::faults::Dial;
use crate::guests::VmHost;
use crate::guests::accelerator::{Accelerator, Choice};
use crate::ids::{GroupName, ImageId, InstanceId};

/// The status of a cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Whether the cloud is up.
    pub(crate) up: bool,
    /// The value for `AWS_ENDPOINT_URL`.
    endpoint: String,
    /// The one region.
    region: String,
    /// The daemon's process id.
    pid: u32,
    /// The endpoint's port.
    port: u16,
    /// Seconds since the daemon started.
    uptime_seconds: i64,
    /// The accelerator of guests and why it was chosen; none for puppets.
    accelerator: Option<Choice>,
    /// Auto Scaling groups.
    groups: Vec<Group>,
    /// Instances, without terminated ones.
    instances: Vec<Instance>,
    /// Images.
    images: Vec<Image>,
    /// Listeners of load balancers.
    listeners: Vec<Listener>,
    /// Dials that are not at their defaults.
    dials: Vec<Dial>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    name: GroupName,
    min: u32,
    desired: u32,
    max: u32,
    /// The launch template in force, and its version.
    template: String,
    members: Vec<Member>,
    /// The latest instance refresh.
    refresh: Option<Refresh>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Member {
    instance: InstanceId,
    lifecycle: String,
    health: String,
    template: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Refresh {
    id: String,
    status: String,
    percent: u32,
    reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Instance {
    id: InstanceId,
    state: String,
    address: String,
    /// Its machine's process id, when it has one.
    pid: Option<u32>,
    image: ImageId,
    #[serde(rename = "type")]
    kind: String,
    /// The accelerator of its machine; none for a puppet.
    accelerator: Option<Accelerator>,
    /// Whether it makes no progress.
    impaired: bool,
    /// The current or last fault of its machine.
    fault: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Image {
    id: ImageId,
    state: String,
    owner: String,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Listener {
    url: String,
    /// `app/<load balancer>/<id>`
    balancer: String,
    /// `<target group>/<id>`
    target_group: String,
    /// Registered instances that receive requests.
    healthy: usize,
    targets: usize,
}

impl Status {
    /// Collects the status.
    pub(crate) fn of(
        state: &State,
        now: Timestamp,
        info: &DaemonInfo,
        since: Timestamp,
        dials: Vec<Dial>,
    ) -> Self {
        Self {
            up: true,
            endpoint: format!("http://127.0.0.1:{}", info.port),
            region: REGION.to_owned(),
            pid: info.pid,
            port: info.port,
            uptime_seconds: now.duration_since(since).as_secs(),
            accelerator: None,
            groups: autoscaling::groups(&state.autoscaling).map(group).collect(),
            instances: instances(state),
            images: images(state),
            listeners: listeners(state, now),
            dials: dials
                .into_iter()
                .filter(|dial| dial.value != dial.usual)
                .collect(),
        }
    }

    /// Adds what only the VM host has: each instance's process, and the accelerator.
    pub(crate) fn add_machines(&mut self, host: &dyn VmHost) {
        self.accelerator = host.choice();
        for instance in &mut self.instances {
            instance.pid = host.pid(&instance.id);
            let usual = self.accelerator.as_ref().map(|choice| choice.accelerator);
            // Emulated instances have theirs set already.
            instance.accelerator = instance.accelerator.or(usual);
        }
    }

    /// As tables.
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!(
            "{}  up {}, process {}\n",
            self.endpoint,
            duration(self.uptime_seconds),
            self.pid
        );
        if let Some(choice) = &self.accelerator {
            let _ = writeln!(text, "accelerator {} ({})", choice.accelerator, choice.why);
        }
        for group in &self.groups {
            let _ = write!(
                text,
                "\ngroup {}: {} of {} (min {}, max {}), {}\n",
                group.name,
                group.members.len(),
                group.desired,
                group.min,
                group.max,
                group.template
            );
            if let Some(refresh) = &group.refresh {
                let _ = writeln!(
                    text,
                    "  refresh {}: {}, {} %{}",
                    refresh.id,
                    refresh.status,
                    refresh.percent,
                    refresh
                        .reason
                        .as_ref()
                        .map_or_else(String::new, |reason| format!(": {reason}"))
                );
            }
            table(
                &mut text,
                group.members.iter().map(|member| {
                    [
                        member.instance.as_str(),
                        &*member.lifecycle,
                        &*member.health,
                        &*member.template,
                    ]
                }),
            );
        }
        section(&mut text, "instances", &self.instances, |instance| {
            let pid = instance.pid.map(|pid| format!("process {pid}"));
            let fault = instance.fault.as_ref().map(|fault| {
                if instance.impaired {
                    format!("impaired: {fault}")
                } else {
                    format!("was impaired: {fault}")
                }
            });
            [
                instance.id.to_string(),
                instance.state.clone(),
                instance.address.clone(),
                instance.kind.clone(),
                instance.image.to_string(),
                pid.unwrap_or_else(|| "-".to_owned()),
                fault.unwrap_or_default(),
            ]
        });
        section(&mut text, "images", &self.images, |image| {
            [
                image.id.to_string(),
                image.state.clone(),
                image.owner.clone(),
                image.name.clone(),
            ]
        });
        section(&mut text, "listeners", &self.listeners, |listener| {
            [
                listener.url.clone(),
                listener.balancer.clone(),
                format!("-> {}", listener.target_group),
                format!("{} of {} in rotation", listener.healthy, listener.targets),
            ]
        });
        section(&mut text, "dials", &self.dials, |dial| {
            [
                dial.name.clone(),
                dial.value.clone(),
                format!("(default {})", dial.usual),
            ]
        });
        text
    }
}

/// All dials with their values and descriptions, as a table.
pub(crate) fn dials(dials: &[Dial]) -> String {
    let mut text = String::new();
    table(
        &mut text,
        dials
            .iter()
            .map(|dial| [&*dial.name, &*dial.value, &*dial.what]),
    );
    text
}

fn group(group: &ScalingGroup) -> Group {
    let template = |of: &instance_refresh::TemplateRef| format!("{}:{}", of.name, of.version);
    Group {
        name: group.name.clone(),
        min: group.min_size,
        desired: group.desired,
        max: group.max_size,
        template: template(&group.template),
        members: group
            .members
            .iter()
            .map(|member| Member {
                instance: member.id.clone(),
                lifecycle: member.state.as_str().to_owned(),
                health: member.health.as_str().to_owned(),
                template: template(&member.template),
            })
            .collect(),
        refresh: group.refreshes.last().map(|refresh| Refresh {
            id: refresh.id.clone(),
            status: refresh.status.as_str().to_owned(),
            percent: refresh.percent,
            reason: refresh.reason.clone(),
        }),
    }
}

fn instances(state: &State) -> Vec<Instance> {
    let ec2 = &state.region.ec2;
    ec2.instances
        .values()
        .filter(|instance| instance.is_alive())
        .map(|instance| Instance {
            id: instance.id.clone(),
            state: instance.phase.name().to_owned(),
            address: instance.address.to_string(),
            pid: None,
            image: instance.image.clone(),
            kind: instance.kind.clone(),
            accelerator: instance.emulated.then_some(Accelerator::Tcg),
            impaired: instance.impairment().is_some(),
            fault: instance.fault_text(),
        })
        .collect()
}

fn images(state: &State) -> Vec<Image> {
    let images = state.region.ec2.images.values();
    images
        .map(|image| Image {
            id: image.id.clone(),
            state: image.state.name().to_owned(),
            owner: image.owner.clone(),
            name: image.name.clone(),
        })
        .collect()
}

fn listeners(state: &State, now: Timestamp) -> Vec<Listener> {
    let region = &state.region;
    let groups = region.elb.checked_groups(&region.ec2, now);
    region
        .elb
        .open_listeners()
        .into_iter()
        .map(|listener| {
            let targets = groups
                .iter()
                .find(|group| group.arn == listener.target_group_arn)
                .map_or(&[][..], |group| &group.targets);
            Listener {
                url: format!("http://{}/", listener.bind),
                balancer: path(listener.arn.as_str()).rsplit_once('/').map_or_else(
                    || listener.arn.to_string(),
                    |(balancer, _)| balancer.to_owned(),
                ),
                target_group: path(listener.target_group_arn.as_str()).to_owned(),
                healthy: targets.iter().filter(|target| target.in_rotation).count(),
                targets: targets.len(),
            }
        })
        .collect()
}

/// The part of an ARN after its resource type.
fn path(arn: &str) -> &str {
    let last = arn.rsplit_once(':').map_or(arn, |(_, last)| last);
    last.split_once('/').map_or(last, |(_, path)| path)
}

fn section<T, const N: usize>(
    text: &mut String,
    title: &str,
    rows: &[T],
    cells: impl Fn(&T) -> [String; N],
) {
    if !rows.is_empty() {
        let _ = write!(text, "\n{title}\n");
        table(text, rows.iter().map(cells));
    }
}

/// Writes rows with aligned columns.
fn table<C: AsRef<str>, const N: usize>(text: &mut String, rows: impl Iterator<Item = [C; N]>) {
    let rows: Vec<[C; N]> = rows.collect();
    let width = |column: usize| {
        let lengths = rows.iter().map(|row| row[column].as_ref().chars().count());
        lengths.max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    for row in &rows {
        let mut line = String::from(" ");
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, " {:width$} ", cell.as_ref());
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

fn duration(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_status_is_printed_as_tables() {
        let status = Status {
            up: true,
            endpoint: "http://127.0.0.1:4800".to_owned(),
            region: REGION.to_owned(),
            pid: 7,
            port: 4800,
            uptime_seconds: 3725,
            accelerator: Some(Choice {
                accelerator: Accelerator::Kvm,
                why: "it runs guest code".to_owned(),
            }),
            groups: vec![Group {
                name: "shop".into(),
                min: 1,
                desired: 2,
                max: 4,
                template: "shop:3".to_owned(),
                members: vec![
                    Member {
                        instance: "i-1".into(),
                        lifecycle: "Pending:Wait".to_owned(),
                        health: "Healthy".to_owned(),
                        template: "shop:3".to_owned(),
                    },
                    Member {
                        instance: "i-22".into(),
                        lifecycle: "InService".to_owned(),
                        health: "Healthy".to_owned(),
                        template: "shop:2".to_owned(),
                    },
                ],
                refresh: Some(Refresh {
                    id: "r-1".to_owned(),
                    status: "InProgress".to_owned(),
                    percent: 50,
                    reason: None,
                }),
            }],
            instances: vec![Instance {
                id: "i-1".into(),
                state: "running".to_owned(),
                address: "127.70.0.4".to_owned(),
                pid: Some(9),
                image: "ami-1".into(),
                kind: "t3.micro".to_owned(),
                accelerator: Some(Accelerator::Tcg),
                impaired: true,
                fault: Some("kernel panic".to_owned()),
            }],
            images: vec![Image {
                id: "ami-1".into(),
                state: "available".to_owned(),
                owner: "self".to_owned(),
                name: "shop".to_owned(),
            }],
            listeners: vec![Listener {
                url: "http://127.70.240.4:80/".to_owned(),
                balancer: "app/shop/1".to_owned(),
                target_group: "shop/2".to_owned(),
                healthy: 1,
                targets: 2,
            }],
            dials: vec![Dial {
                name: "stall-limit".to_owned(),
                value: "90".to_owned(),
                usual: "3600".to_owned(),
                what: String::new(),
            }],
        };
        assert_eq!(
            status.to_text(),
            "http://127.0.0.1:4800  up 1 h 2 min, process 7\n\
             accelerator kvm (it runs guest code)\n\
             \n\
             group shop: 2 of 2 (min 1, max 4), shop:3\n\
             \x20 refresh r-1: InProgress, 50 %\n\
             \x20 i-1   Pending:Wait  Healthy  shop:3\n\
             \x20 i-22  InService     Healthy  shop:2\n\
             \n\
             instances\n\
             \x20 i-1  running  127.70.0.4  t3.micro  ami-1  process 9  impaired: kernel panic\n\
             \n\
             images\n\
             \x20 ami-1  available  self  shop\n\
             \n\
             listeners\n\
             \x20 http://127.70.240.4:80/  app/shop/1  -> shop/2  1 of 2 in rotation\n\
             \n\
             dials\n\
             \x20 stall-limit  90  (default 3600)\n"
        );
    }

    #[test]
    fn durations_are_readable() {
        for (seconds, expected) in [(9, "9 s"), (61, "1 min 1 s"), (7260, "2 h 1 min")] {
            assert_eq!(duration(seconds), expected, "{seconds}");
        }
    }
}
