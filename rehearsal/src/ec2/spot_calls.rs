//! Spot requests: their state, and the calls on them.

use super::State;
use super::instance_views::{group_name, write_groups};
use super::instances::{Instance, OnShutdown, Phase, Reason};
use super::network::zone_id;
use super::select::{CallSpec, Describe, absent, each, maybe, one};
use super::spot::SpotRequest;
use super::tags;
use crate::ids::{Id as _, SpotRequestId};
use crate::table::Table;
use crate::wire::{ApiError, Params, Xml, iso};

/// The product of all requests.
const PRODUCT: &str = "Linux/UNIX";

impl Instance {
    /// The request that launched it, if it is a Spot Instance.
    pub(crate) fn spot(&self) -> Option<&SpotRequest> {
        self.spot.as_ref()
    }

    /// Refuses attributes that a one-time Spot Instance cannot have: termination protection
    /// (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ModifyInstanceAttribute.html>), and a shutdown that
    /// stops it.
    ///
    /// # Errors
    /// `UnsupportedOperation`: EC2's codes are not published.
    pub(super) fn check_spot(&self) -> Result<(), ApiError> {
        let refused = |text: &str| Err(ApiError::new("UnsupportedOperation", text));
        match self.spot() {
            Some(_) if self.protected => {
                refused("You can't enable termination protection for Spot Instances.")
            }
            Some(_) if self.on_shutdown == OnShutdown::Stop => refused(
                "InstanceInitiatedShutdownBehavior (stop) of a Spot Instance of a one-time request cannot be honoured here",
            ),
            _ => Ok(()),
        }
    }
}

/// A request's current state, and its status as code and message
/// (<https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-request-status.html>).
fn status(instance: &Instance, request: &SpotRequest) -> [&'static str; 3] {
    if !matches!(instance.phase, Phase::ShuttingDown | Phase::Terminated) {
        return if request.cancelled {
            [
                "cancelled",
                "request-canceled-and-instance-running",
                "Your Spot request is canceled, but your instance is still running.",
            ]
        } else {
            ["active", "fulfilled", "Your Spot request is fulfilled."]
        };
    }
    let state = if request.cancelled {
        "cancelled"
    } else {
        "closed"
    };
    let reclaimed = instance
        .reason
        .as_ref()
        .is_some_and(|why| why.code == Reason::spot().code);
    if reclaimed {
        [
            state,
            "instance-terminated-no-capacity",
            "There is no longer enough Spot capacity available for the instance.",
        ]
    } else {
        [
            state,
            "instance-terminated-by-user",
            "Spot Instance terminated due to user-initiated termination.",
        ]
    }
}

pub(super) const REQUESTS: CallSpec = CallSpec {
    ids: "SpotInstanceRequestId",
    filters: &[
        "create-time",
        "instance-id",
        "launch.block-device-mapping.delete-on-termination",
        "launch.block-device-mapping.device-name",
        "launch.block-device-mapping.snapshot-id",
        "launch.block-device-mapping.volume-size",
        "launch.block-device-mapping.volume-type",
        "launch.group-id",
        "launch.group-name",
        "launch.image-id",
        "launch.instance-type",
        "launch.key-name",
        "launch.monitoring-enabled",
        "launched-availability-zone",
        "launched-availability-zone-id",
        "product-description",
        "spot-instance-request-id",
        "spot-price",
        "state",
        "status-code",
        "status-message",
        "type",
        "valid-from",
    ],
    // A request's launch specification describes no network interfaces here.
    absent: &[
        "availability-zone-group",
        "fault-code",
        "fault-message",
        "launch-group",
        "launch.kernel-id",
        "launch.ramdisk-id",
        "network-interface.addresses.primary",
        "network-interface.delete-on-termination",
        "network-interface.description",
        "network-interface.device-index",
        "network-interface.group-id",
        "network-interface.network-interface-id",
        "network-interface.private-ip-address",
        "network-interface.subnet-id",
        "valid-until",
    ],
    tags: true,
    ..CallSpec::USUAL
};

/// All requests by id, with their instances.
fn all(state: &State) -> Table<SpotRequestId, (&Instance, &SpotRequest)> {
    let of_spot = |instance| {
        let request = Instance::spot(instance)?;
        Some((request.id.clone(), (instance, request)))
    };
    state.instances.values().filter_map(of_spot).collect()
}

fn not_found(ids: &[&str]) -> ApiError {
    ApiError::new(
        "InvalidSpotInstanceRequestID.NotFound",
        absent("spot instance request ID", "spot instance request IDs", ids),
    )
}

impl State {
    /// Whether there is such a request.
    ///
    /// # Errors
    /// `InvalidSpotInstanceRequestID.NotFound`.
    pub(super) fn check_spot_request(&self, id: &str) -> Result<(), ApiError> {
        let mut requests = self.instances.values().filter_map(Instance::spot);
        if requests.any(|request| request.id == id) {
            return Ok(());
        }
        Err(not_found(&[id]))
    }
}

/// DescribeSpotInstanceRequests: the requests of instances that are still shown.
pub(crate) fn describe(state: &State, params: &Params) -> Result<Xml, ApiError> {
    SpotRequestId::list(params, "SpotInstanceRequestId")?;
    let all = all(state);
    let chosen = Describe::new(params, &state.tags, &REQUESTS).choose(
        &all,
        not_found,
        |(instance, request), name| field(state, instance, request, name),
    )?;
    let mut xml = Xml::new();
    chosen.write(
        &mut xml,
        "spotInstanceRequestSet",
        |x, (instance, request)| write(x, state, instance, request),
    );
    Ok(xml)
}

fn field(
    state: &State,
    instance: &Instance,
    request: &SpotRequest,
    name: &str,
) -> Option<Vec<String>> {
    let [current, code, message] = status(instance, request);
    let volumes = || state.volumes_of(&instance.id);
    match name {
        "create-time" | "valid-from" => one(iso(instance.launched)),
        "instance-id" => one(&instance.id),
        "launch.block-device-mapping.delete-on-termination" => Some(
            volumes()
                .map(|(_, at)| at.delete_on_termination.to_string())
                .collect(),
        ),
        "launch.block-device-mapping.device-name" => {
            Some(volumes().map(|(_, at)| at.device.clone()).collect())
        }
        "launch.block-device-mapping.snapshot-id" => Some(
            volumes()
                .filter_map(|(volume, _)| volume.snapshot.as_ref())
                .map(ToString::to_string)
                .collect(),
        ),
        "launch.block-device-mapping.volume-size" => Some(
            volumes()
                .map(|(volume, _)| volume.size.to_string())
                .collect(),
        ),
        "launch.block-device-mapping.volume-type" => {
            Some(volumes().map(|(volume, _)| volume.kind.clone()).collect())
        }
        "launch.group-id" => each(&instance.groups),
        "launch.group-name" => Some(
            instance
                .groups
                .iter()
                .map(|id| group_name(state, id).to_owned())
                .collect(),
        ),
        "launch.image-id" => one(&instance.image),
        "launch.instance-type" => one(&instance.kind),
        "launch.key-name" => maybe(instance.key.as_ref()),
        "launch.monitoring-enabled" => one(instance.monitored),
        "launched-availability-zone" => one(&instance.zone),
        "launched-availability-zone-id" => one(zone_id(&instance.zone)),
        "product-description" => one(PRODUCT),
        "spot-instance-request-id" => one(&request.id),
        "spot-price" => maybe(request.max_price.as_ref()),
        "state" => one(current),
        "status-code" => one(code),
        "status-message" => one(message),
        "type" => one("one-time"),
        _ => None,
    }
}

fn write(x: &mut Xml, state: &State, instance: &Instance, request: &SpotRequest) {
    let [current, code, message] = status(instance, request);
    x.text("spotInstanceRequestId", &request.id)
        .maybe("spotPrice", request.max_price.as_ref())
        .text("type", "one-time")
        .text("state", current)
        .node("status", |x| {
            x.text("code", code)
                .text("updateTime", iso(instance.since))
                .text("message", message);
        })
        .node("launchSpecification", |x| {
            x.text("imageId", &instance.image)
                .maybe("keyName", instance.key.as_ref());
            write_groups(x, state, instance);
            x.text("instanceType", &instance.kind)
                .node("placement", |x| {
                    x.text("availabilityZone", &instance.zone);
                })
                .node("monitoring", |x| {
                    x.text("enabled", instance.monitored);
                })
                .text("ebsOptimized", instance.ebs_optimized)
                .text("subnetId", &instance.subnet);
        })
        .text("instanceId", &instance.id)
        .text("createTime", iso(instance.launched))
        .text("productDescription", PRODUCT)
        .text("launchedAvailabilityZone", &instance.zone)
        .text("instanceInterruptionBehavior", "terminate");
    tags::write_all(x, state.tags.get(request.id.as_str()));
}

/// CancelSpotInstanceRequests: their instances keep running.
pub(crate) fn cancel(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    let wanted = SpotRequestId::list(params, "SpotInstanceRequestId")?;
    if wanted.is_empty() {
        return Err(ApiError::missing("SpotInstanceRequestId"));
    }
    let mut owners = Vec::new();
    let mut missing = Vec::new();
    let requests = all(state);
    for id in &wanted {
        match requests.get(id) {
            Some((instance, _)) => owners.push(instance.id.clone()),
            None => missing.push(id.as_str()),
        }
    }
    drop(requests);
    if !missing.is_empty() {
        return Err(not_found(&missing));
    }
    let mut xml = Xml::new();
    let mut cancelled = Vec::new();
    for id in owners {
        let Some(instance) = state.instances.get_mut(&id) else {
            continue;
        };
        let ended = matches!(instance.phase, Phase::ShuttingDown | Phase::Terminated);
        if let Some(request) = instance.spot.as_mut() {
            // A closed request stays closed.
            request.cancelled |= !ended;
            let request = request.clone();
            let [current, ..] = status(instance, &request);
            cancelled.push((request.id, current));
        }
    }
    xml.list(
        "spotInstanceRequestSet",
        "item",
        cancelled,
        |x, (id, current)| {
            x.text("spotInstanceRequestId", id).text("state", current);
        },
    );
    Ok(xml)
}
