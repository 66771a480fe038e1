//! Instances, images and disks over a fake VM host, with a clock that tests advance.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use super::{Action, Machines, decide};
use crate::clock::SetClock;
use crate::cloud::Cloud;
use crate::disks::{self, DiskStore};
use crate::ec2::instances::{Fault, Phase};
use crate::ec2::{self};
use crate::guests::accelerator::Accelerator;
use crate::guests::fake_host::FakeHost;
use crate::guests::{Failure, FailureKind, Firmware, Guest, GuestState, HostKind, VmHost};
use crate::ids::{SnapshotId, VolumeId};
use crate::imds_source::ImdsSource as _;
use crate::metadata::Metadata;
use crate::request::RequestContext;
use crate::wire::{ApiError, Params};

struct Bench {
    folder: tempfile::TempDir,
    clock: Arc<SetClock>,
    cloud: Arc<Cloud>,
    host: Arc<FakeHost>,
    disks: Arc<dyn DiskStore>,
    machines: Arc<Machines>,
    uefi_only: Arc<AtomicBool>,
}

/// Disks that refuse to be copied under a running machine.
struct Careful {
    disks: Arc<dyn DiskStore>,
    host: Arc<FakeHost>,
    cloud: Arc<Cloud>,
    /// Whether disks have no boot code for BIOS.
    uefi_only: Arc<AtomicBool>,
}

impl DiskStore for Careful {
    fn import(&self, snapshot_id: &SnapshotId, file: &Path) -> anyhow::Result<()> {
        self.disks.import(snapshot_id, file)
    }

    fn create_volume(
        &self,
        volume_id: &VolumeId,
        snapshot_id: Option<&SnapshotId>,
        size_gib: u32,
    ) -> anyhow::Result<PathBuf> {
        self.disks.create_volume(volume_id, snapshot_id, size_gib)
    }

    fn volume_path(&self, volume_id: &VolumeId) -> PathBuf {
        self.disks.volume_path(volume_id)
    }

    fn has_boot_code(&self, _volume_id: &VolumeId) -> anyhow::Result<bool> {
        Ok(!self.uefi_only.load(Ordering::Relaxed))
    }

    fn capture(&self, volume_id: &VolumeId, snapshot_id: &SnapshotId) -> anyhow::Result<()> {
        let instance = self.cloud.read(|state, _| {
            let volume = &state.region.ec2.volumes.rows()[volume_id];
            volume.attachment.as_ref().unwrap().instance.clone()
        });
        anyhow::ensure!(self.host.state(&instance) != GuestState::Running, "torn");
        self.disks.capture(volume_id, snapshot_id)
    }

    fn duplicate(&self, snapshot_id: &SnapshotId, copy_id: &SnapshotId) -> anyhow::Result<()> {
        self.disks.duplicate(snapshot_id, copy_id)
    }

    fn delete_volume(&self, volume_id: &VolumeId) {
        self.disks.delete_volume(volume_id);
    }

    fn delete_snapshot(&self, snapshot_id: &SnapshotId) {
        self.disks.delete_snapshot(snapshot_id);
    }
}

impl Bench {
    fn new() -> Self {
        Self::under(Accelerator::Tcg)
    }

    /// On a host that has this accelerator.
    fn under(accelerator: Accelerator) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(SetClock::new(Timestamp::UNIX_EPOCH));
        let bench = Self::over(folder, clock, accelerator);
        bench
            .cloud
            .change(|state, now| {
                let ec2 = &mut state.region.ec2;
                ec2.register_base_image(12, None, "uefi-preferred", now);
            })
            .unwrap();
        bench.machines.import_base_images().unwrap();
        bench
    }

    fn over(folder: tempfile::TempDir, clock: Arc<SetClock>, accelerator: Accelerator) -> Self {
        let cloud = Arc::new(Cloud::open(folder.path(), Arc::clone(&clock) as _).unwrap());
        let host = Arc::new(FakeHost::under(accelerator));
        let uefi_only = Arc::default();
        let disks: Arc<dyn DiskStore> = Arc::new(Careful {
            disks: disks::open(&HostKind::Puppets { command: None }, folder.path()).unwrap(),
            host: Arc::clone(&host),
            cloud: Arc::clone(&cloud),
            uefi_only: Arc::clone(&uefi_only),
        });
        let machines = Machines::new(
            Arc::clone(&cloud),
            Arc::clone(&host) as _,
            Arc::clone(&disks),
            Vec::new(),
        );
        Self {
            folder,
            clock,
            cloud,
            host,
            disks,
            machines,
            uefi_only,
        }
    }

    /// The cloud was restarted: the same state, a new VM host.
    fn again(self) -> Self {
        let Self {
            folder,
            clock,
            cloud,
            host,
            disks,
            machines,
            uefi_only: _,
        } = self;
        let accelerator = host.accelerator;
        // The one before has let go of the folder.
        drop((cloud, host, disks, machines));
        Self::over(folder, clock, accelerator)
    }

    /// Steps until nothing more happens: a step that pressed a button shows in the next.
    async fn settle(&self) {
        let mut quiet = 0;
        while quiet < 2 {
            let before = self.state();
            self.machines.step().unwrap();
            while !self.machines.busy().is_empty() {
                tokio::task::yield_now().await;
            }
            quiet = if self.state() == before { quiet + 1 } else { 0 };
        }
    }

    fn state(&self) -> String {
        self.cloud.read(|state, _| format!("{state:?}"))
    }

    fn call(&self, form: &str) -> Result<String, ApiError> {
        let params = Params::parse(form.as_bytes());
        let action = params.text("Action").unwrap().to_owned();
        self.cloud
            .change(|state, now| {
                let ctx = RequestContext { now };
                ec2::handle(&mut state.region.ec2, &ctx, &action, &params)
            })
            .unwrap()
            .map(crate::wire::Xml::into_string)
    }

    fn ec2<T>(&self, view: impl FnOnce(&ec2::State) -> T) -> T {
        self.cloud.read(|state, _| view(&state.region.ec2))
    }

    fn base(&self) -> String {
        self.ec2(|ec2| ec2.images.keys().next().unwrap().to_string())
    }

    fn run(&self, more: &str) -> String {
        let image = match more.contains("&ImageId=") {
            true => String::new(),
            false => format!("&ImageId={}", self.base()),
        };
        let answer = self
            .call(&format!(
                "Action=RunInstances&MinCount=1&MaxCount=1{image}{more}"
            ))
            .unwrap();
        between(&answer, "<instanceId>", "</instanceId>")
    }

    fn phase(&self, id: &str) -> Phase {
        self.ec2(|ec2| ec2.instances[id].phase)
    }

    fn reason(&self, id: &str) -> Option<String> {
        self.ec2(|ec2| Some(ec2.instances[id].reason.as_ref()?.code.clone()))
    }

    fn root(&self, id: &str) -> String {
        self.ec2(|ec2| ec2.volumes_of(&id.into()).next().unwrap().0.id.to_string())
    }

    /// DescribeInstanceStatus: the summaries of system and instance, and the event's description.
    fn checks(&self, id: &str) -> (String, String, Option<String>) {
        let answer = self
            .call(&format!("Action=DescribeInstanceStatus&InstanceId.1={id}"))
            .unwrap();
        let summary = |name: &str| {
            let check = between(&answer, &format!("<{name}>"), &format!("</{name}>"));
            between(&check, "<status>", "</status>")
        };
        let event = answer
            .contains("<description>")
            .then(|| between(&answer, "<description>", "</description>"));
        (summary("systemStatus"), summary("instanceStatus"), event)
    }

    fn to(&self, verb: &str, id: &str) {
        self.call(&format!("Action={verb}Instances&InstanceId.1={id}"))
            .unwrap();
    }
}

fn between(text: &str, left: &str, right: &str) -> String {
    let (_, rest) = text.split_once(left).unwrap();
    rest.split_once(right).unwrap().0.to_owned()
}

#[tokio::test]
async fn an_instance_passes_its_states_and_its_disk_is_deleted() {
    let bench = Bench::new();
    let id = bench.run("");
    assert_eq!(bench.phase(&id), Phase::Pending);
    bench.settle().await;
    assert_eq!(bench.phase(&id), Phase::Running);
    let disk = bench.disks.volume_path(&bench.root(&id).as_str().into());
    assert!(disk.exists());

    bench.to("Stop", &id);
    assert_eq!(bench.phase(&id), Phase::Stopping);
    bench.settle().await;
    assert_eq!(bench.phase(&id), Phase::Stopped);
    assert_eq!(
        bench.host.state(&id.as_str().into()),
        GuestState::PoweredOff
    );
    bench.to("Start", &id);
    bench.settle().await;
    assert_eq!(bench.phase(&id), Phase::Running);

    bench.to("Terminate", &id);
    assert_eq!(bench.phase(&id), Phase::ShuttingDown);
    bench.settle().await;
    assert_eq!(bench.phase(&id), Phase::Terminated);
    assert!(!disk.exists());
    assert!(bench.ec2(|ec2| ec2.volumes.rows().is_empty()));

    bench.clock.advance(Duration::from_secs(3601));
    bench
        .cloud
        .change(|state, now| ec2::tick(&mut state.region.ec2, now))
        .unwrap();
    bench.settle().await;
    assert!(bench.ec2(|ec2| ec2.instances.is_empty() && ec2.discarded.is_empty()));
    assert_eq!(bench.host.state(&id.as_str().into()), GuestState::Absent);
}

#[tokio::test]
async fn a_guest_is_booted_by_the_firmware_that_its_instance_shows() {
    let bench = Bench::new();
    // Before there is another image.
    let base = bench.base();
    let copied = format!("Action=CopyImage&Name=bios&SourceRegion=us-east-1&SourceImageId={base}");
    let bios = between(&bench.call(&copied).unwrap(), "<imageId>", "</imageId>");
    bench.settle().await;
    bench
        .cloud
        .change(|state, _| {
            let image = state.region.ec2.images.get_mut(bios.as_str()).unwrap();
            image.boot_mode = None;
        })
        .unwrap();
    for (form, shown, firmware) in [
        ("&InstanceType=t2.micro", "legacy-bios", Firmware::Bios),
        ("&InstanceType=t3.micro", "uefi", Firmware::Uefi),
        (
            "&InstanceType=t3.micro&ImageId=BIOS",
            "legacy-bios",
            Firmware::Bios,
        ),
    ] {
        let id = bench.run(&match form.contains("ImageId") {
            true => form.replace("BIOS", &bios),
            false => format!("{form}&ImageId={base}"),
        });
        bench.settle().await;
        assert_eq!(bench.host.firmware(&id.as_str().into()), firmware, "{form}");
        let described = bench
            .call(&format!("Action=DescribeInstances&InstanceId.1={id}"))
            .unwrap();
        let name = "currentInstanceBootMode>";
        let found = between(&described, &format!("<{name}"), &format!("</{name}"));
        assert_eq!(found, shown, "{form}");
    }
}

#[tokio::test]
async fn a_type_without_uefi_boots_no_disk_that_only_uefi_boots() {
    let bench = Bench::new();
    bench.uefi_only.store(true, Ordering::Relaxed);
    let (old, new) = (
        bench.run("&InstanceType=t2.micro"),
        bench.run("&InstanceType=t3.micro"),
    );
    bench.settle().await;
    assert_eq!(bench.phase(&new), Phase::Running);
    assert_eq!(bench.phase(&old), Phase::Terminated);
    let message = |id: &str| bench.ec2(|ec2| ec2.instances[id].reason.clone().unwrap().message);
    let expected = format!(
        "Server.InternalError: a t2.micro boots {} by BIOS, for which its disk has no boot code",
        bench.base()
    );
    assert!(message(&old).starts_with(&expected), "{}", message(&old));

    // It may be made one later.
    bench.to("Stop", &new);
    bench.settle().await;
    let modify =
        format!("Action=ModifyInstanceAttribute&InstanceId={new}&InstanceType.Value=t2.micro");
    bench.call(&modify).unwrap();
    bench.to("Start", &new);
    bench.settle().await;
    assert_eq!(bench.phase(&new), Phase::Stopped);
    assert!(message(&new).starts_with(&expected), "{}", message(&new));
    bench.uefi_only.store(false, Ordering::Relaxed);
    bench.to("Start", &new);
    bench.settle().await;
    assert_eq!(bench.phase(&new), Phase::Running);
    assert_eq!(bench.host.firmware(&new.as_str().into()), Firmware::Bios);

    // An image that demands UEFI keeps its instances on types that have it.
    let demands = |state: &mut crate::cloud::State, id: &str| {
        let instance = state.region.ec2.instances.get_mut(id).unwrap();
        instance.boot_mode = Some("uefi".to_owned());
        instance.kind = "t3.micro".to_owned();
    };
    bench.to("Stop", &new);
    bench.settle().await;
    bench.cloud.change(|state, _| demands(state, &new)).unwrap();
    let refused = bench.call(&modify).unwrap_err();
    assert_eq!(refused.code, "InvalidParameterValue", "{refused:?}");
}

#[tokio::test]
async fn a_machine_that_ends_stops_or_terminates_its_instance() {
    let bench = Bench::new();
    let stops = bench.run("");
    let terminates = bench.run("&InstanceInitiatedShutdownBehavior=terminate");
    let dies = bench.run("");
    bench.settle().await;
    bench.host.power_off(&stops.as_str().into());
    bench.host.power_off(&terminates.as_str().into());
    bench.host.kill(&dies.as_str().into());
    bench.settle().await;
    let own = Some("Client.InstanceInitiatedShutdown".to_owned());
    assert_eq!(
        (bench.phase(&stops), bench.reason(&stops)),
        (Phase::Stopped, own.clone())
    );
    assert_eq!(
        (bench.phase(&terminates), bench.reason(&terminates)),
        (Phase::Terminated, own)
    );
    assert_eq!(
        (bench.phase(&dies), bench.reason(&dies)),
        (Phase::Stopped, Some("Server.InternalError".to_owned()))
    );
}

#[tokio::test]
async fn a_spot_shutdown_terminates_and_metadata_shows_spot() {
    let bench = Bench::new();
    let spot = bench.run("&InstanceMarketOptions.MarketType=spot");
    let plain = bench.run("");
    bench.settle().await;
    let metadata = Metadata::new(Arc::clone(&bench.cloud), 4800);
    let is_spot = |id: &str| metadata.facts(&id.into()).unwrap().spot;
    assert!(is_spot(&spot) && !is_spot(&plain));
    let requests = || {
        let all = "Action=DescribeSpotInstanceRequests";
        bench.call(all).unwrap()
    };
    assert!(
        requests().contains("<state>active</state>"),
        "{}",
        requests()
    );
    bench.host.power_off(&spot.as_str().into());
    bench.host.power_off(&plain.as_str().into());
    bench.settle().await;
    let ended = (bench.phase(&spot), bench.phase(&plain));
    assert_eq!(ended, (Phase::Terminated, Phase::Stopped));
    assert!(
        requests().contains("<state>closed</state>"),
        "{}",
        requests()
    );
    // It is forgotten with its instance.
    bench.clock.advance(Duration::from_secs(3601));
    bench
        .cloud
        .change(|state, now| ec2::tick(&mut state.region.ec2, now))
        .unwrap();
    assert!(!requests().contains("<state>"), "{}", requests());
}

#[tokio::test]
async fn an_image_of_a_running_instance_is_copied_while_it_is_off() {
    let bench = Bench::new();
    let id = bench.run("");
    bench.settle().await;
    let answer = bench
        .call(&format!("Action=CreateImage&InstanceId={id}&Name=mine"))
        .unwrap();
    let image = between(&answer, "<imageId>", "</imageId>");
    let state = |bench: &Bench| bench.ec2(|ec2| ec2.images[image.as_str()].state.name());
    assert_eq!(state(&bench), "pending");

    bench.settle().await;
    assert_eq!(state(&bench), "available");
    assert_eq!(bench.phase(&id), Phase::Running);
    assert_eq!(bench.host.state(&id.as_str().into()), GuestState::Running);
    assert!(!bench.ec2(|ec2| ec2.instances[id.as_str()].reboots));

    // A machine that is off at the next step is not started before the copy is made.
    let answer = bench
        .call(&format!("Action=CreateImage&InstanceId={id}&Name=next"))
        .unwrap();
    let next = between(&answer, "<imageId>", "</imageId>");
    bench.host.power_off(&id.as_str().into());
    bench.settle().await;
    assert_eq!(
        bench.ec2(|ec2| ec2.images[next.as_str()].state.name()),
        "available"
    );
    assert_eq!(bench.host.state(&id.as_str().into()), GuestState::Running);

    let snapshot = bench.ec2(|ec2| {
        ec2.images[image.as_str()]
            .snapshots()
            .next()
            .unwrap()
            .to_owned()
    });
    let delete = format!("Action=DeleteSnapshot&SnapshotId={snapshot}");
    assert_eq!(
        bench.call(&delete).unwrap_err().code,
        "InvalidSnapshot.InUse"
    );
    bench
        .call(&format!("Action=DeregisterImage&ImageId={image}"))
        .unwrap();
    bench.call(&delete).unwrap();
    bench.settle().await;
    assert!(!bench.disks.volume_path(&snapshot.as_str().into()).exists());
}

#[tokio::test]
async fn a_copy_of_an_image_has_a_disk_of_its_own() {
    let bench = Bench::new();
    let base = bench.base();
    let copy = |name: &str, of: &str| {
        let form = format!(
            "Action=CopyImage&Name={name}&SourceImageId={of}&SourceRegion=us-east-1&Encrypted=true"
        );
        between(&bench.call(&form).unwrap(), "<imageId>", "</imageId>")
    };
    let state = |image: &str| bench.ec2(|ec2| ec2.images[image].state.name());
    let disk = |image: &str| {
        let snapshot = bench.ec2(|ec2| ec2.images[image].snapshots().next().unwrap().to_owned());
        bench.disks.volume_path(&snapshot.as_str().into())
    };
    let first = copy("first", &base);
    assert_eq!(state(&first), "pending");
    bench.settle().await;
    assert_eq!(state(&first), "available");

    // The source may go before it is copied: its disk stays until then.
    let second = copy("second", &first);
    let gone = disk(&first);
    bench
        .call(&format!(
            "Action=DeregisterImage&ImageId={first}&DeleteAssociatedSnapshots=true"
        ))
        .unwrap();
    bench.settle().await;
    assert_eq!(state(&second), "available");
    assert!(disk(&second).exists() && !gone.exists());
    let id = bench.run(&format!("&ImageId={second}"));
    bench.settle().await;
    assert_eq!(bench.phase(&id), Phase::Running);
    assert!(bench.ec2(|ec2| {
        ec2.volumes_of(&id.as_str().into())
            .all(|(volume, _)| volume.key.is_some())
    }));
}

#[tokio::test]
async fn every_documented_filter_is_known_and_no_other() {
    let bench = Bench::new();
    let pair = "PublicKeyMaterial=c3NoLWVkMjU1MTkgQUFBQUMzTnphQzFsWkRJMU5URTVBQUFBSUpxc3ZoNmJmOHAwdzBTN3p2UlRwSklYcmRZVVBOVFlpWW1DaTBMa094OXo=";
    for form in [
        &format!("Action=ImportKeyPair&KeyName=ops&{pair}"),
        "Action=CreateLaunchTemplate&LaunchTemplateName=shop&LaunchTemplateData.ImageId=ami-1",
        "Action=CreateSecurityGroup&GroupName=web&GroupDescription=web",
    ] {
        bench.call(form).unwrap();
    }
    bench.run("&KeyName=ops&InstanceMarketOptions.MarketType=spot&IamInstanceProfile.Name=shop&TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=a");
    bench.settle().await;
    let base = bench.base();
    bench
        .call(&format!(
            "Action=CopyImage&Name=copy&SourceImageId={base}&SourceRegion=us-east-1"
        ))
        .unwrap();
    for (action, spec) in ec2::all_specs() {
        let also = match action {
            "DescribeLaunchTemplateVersions" => "&LaunchTemplateName=shop",
            _ => "",
        };
        let ask = |filter: &str| {
            let filter = format!("Filter.1.Name={filter}&Filter.1.Value.1=*");
            bench.call(&format!("Action={action}&{filter}{also}"))
        };
        for filter in spec.filters.iter().chain(spec.absent) {
            let answer = ask(filter);
            assert!(answer.is_ok(), "{action} {filter}: {answer:?}");
        }
        assert_eq!(ask("tag-key").is_ok(), spec.tags, "{action}");
        let unknown = ask("colour").expect_err(action);
        assert_eq!(unknown.code, "InvalidParameterValue", "{action}");
    }
}

#[tokio::test]
async fn a_kept_interface_outlives_instance_and_restart() {
    let bench = Bench::new();
    let stays =
        bench.run("&NetworkInterface.1.DeviceIndex=0&NetworkInterface.1.DeleteOnTermination=false");
    let goes = bench.run("");
    bench.settle().await;
    let (subnet, address) = bench.ec2(|ec2| {
        let instance = &ec2.instances[stays.as_str()];
        (instance.subnet.clone(), instance.address)
    });
    let free = |bench: &Bench| {
        let form = format!("Action=DescribeSubnets&SubnetId.1={subnet}");
        let count = "availableIpAddressCount>";
        between(
            &bench.call(&form).unwrap(),
            &format!("<{count}"),
            &format!("</{count}"),
        )
    };
    assert_eq!(free(&bench), "4089");
    bench.to("Terminate", &stays);
    bench.to("Terminate", &goes);
    bench.settle().await;
    let bench = bench.again();
    let left = bench.ec2(|ec2| ec2.interfaces.keys().cloned().collect::<Vec<_>>());
    assert_eq!(left, [stays.replacen("i-", "eni-", 1).as_str()]);
    assert_eq!(free(&bench), "4090");
    assert!(bench.ec2(|ec2| ec2.is_taken(address)));
    bench
        .call(&format!(
            "Action=DeleteNetworkInterface&NetworkInterfaceId={}",
            left[0]
        ))
        .unwrap();
    assert_eq!(free(&bench), "4091");
    assert!(!bench.ec2(|ec2| ec2.is_taken(address)));
}

#[tokio::test]
async fn running_instances_start_again_with_the_cloud() {
    let bench = Bench::new();
    let (runs, stopped) = (bench.run(""), bench.run(""));
    bench.settle().await;
    bench.to("Stop", &stopped);
    bench.settle().await;
    bench.machines.end().await;
    assert_eq!(
        bench.host.state(&runs.as_str().into()),
        GuestState::PoweredOff
    );

    let bench = bench.again();
    assert_eq!(bench.host.state(&runs.as_str().into()), GuestState::Absent);
    bench.settle().await;
    assert_eq!(bench.phase(&runs), Phase::Running);
    assert_eq!(bench.host.state(&runs.as_str().into()), GuestState::Running);
    assert_eq!(
        bench.host.state(&stopped.as_str().into()),
        GuestState::Absent
    );
}

#[tokio::test]
async fn a_failed_disk_creation_terminates_the_instance_with_a_reason() {
    let bench = Bench::new();
    let snapshot = bench.ec2(|ec2| ec2.snapshots.keys().next().unwrap().clone());
    bench.disks.delete_snapshot(&snapshot);
    let id = bench.run("");
    bench.settle().await;
    assert_eq!(bench.phase(&id), Phase::Terminated);
    let message = bench.ec2(|ec2| ec2.instances[id.as_str()].reason.clone().unwrap().message);
    assert!(message.contains(snapshot.as_str()), "{message}");
}

#[tokio::test]
async fn slow_boot_delays_the_start_of_a_machine() {
    let bench = Bench::new();
    let dialled = bench
        .cloud
        .change(|state, _| state.region.faults.slow_boot = 5);
    dialled.unwrap();
    let id = bench.run("");
    for (later, phase, guest) in [
        (0, Phase::Pending, GuestState::Absent),
        (4, Phase::Pending, GuestState::Absent),
        (1, Phase::Running, GuestState::Running),
    ] {
        bench.clock.advance(Duration::from_secs(later));
        bench.settle().await;
        assert_eq!(bench.phase(&id), phase, "{later}");
        assert_eq!(bench.host.state(&id.as_str().into()), guest, "{later}");
    }
}

#[tokio::test]
async fn the_same_token_launches_once() {
    let bench = Bench::new();
    let first = bench.run("&ClientToken=t");
    assert_eq!(bench.run("&ClientToken=t"), first);
    let image = bench.base();
    let other = bench.call(&format!(
        "Action=RunInstances&MinCount=1&MaxCount=2&ImageId={image}&ClientToken=t"
    ));
    assert_eq!(other.unwrap_err().code, "IdempotentParameterMismatch");
    assert_eq!(bench.ec2(|ec2| ec2.instances.len()), 1);
}

#[tokio::test]
async fn a_refused_launch_creates_nothing() {
    let bench = Bench::new();
    let image = bench.base();
    for (more, code) in [
        ("&ImageId=ami-0", "InvalidAMIID.NotFound"),
        ("&ImageId=x", "InvalidAMIID.Malformed"),
        ("&KeyName=none", "InvalidKeyPair.NotFound"),
        ("&SecurityGroupId.1=sg-0", "InvalidGroup.NotFound"),
        ("&SubnetId=subnet-0", "InvalidSubnetID.NotFound"),
        ("&InstanceType=t4g.micro", "InvalidParameterValue"),
        ("&UserData=%25", "InvalidParameterValue"),
        (
            "&BlockDeviceMapping.1.DeviceName=/dev/xvda&BlockDeviceMapping.1.Ebs.VolumeSize=1",
            "InvalidBlockDeviceMapping",
        ),
        ("&DryRun=true", "DryRunOperation"),
        (
            "&LaunchTemplate.LaunchTemplateId=lt-0",
            "InvalidLaunchTemplateId.NotFound",
        ),
        (
            "&TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=aws:x",
            "InvalidParameterValue",
        ),
    ] {
        // A parameter given twice counts as it was given last.
        let form = format!("Action=RunInstances&MinCount=1&MaxCount=1&ImageId={image}{more}");
        assert_eq!(bench.call(&form).expect_err(more).code, code, "{more}");
    }
    assert!(bench.ec2(|ec2| ec2.instances.is_empty() && ec2.volumes.rows().is_empty()));
    assert!(bench.ec2(|ec2| ec2.network.subnets.iter().all(|subnet| subnet.given == 0)));
}

fn failure(kind: FailureKind) -> Failure {
    Failure::new(kind, "as the test says")
}

/// What a machine that fails while its instance should run leads to, by kind and accelerator.
#[tokio::test]
async fn a_failing_machine_is_emulated_once_or_shown() {
    use FailureKind::{Accelerator, Disk, DiskFull, Panic, Stopped};
    use GuestState::{Dead, PoweredOff, Running};
    let bench = Bench::new();
    let id = bench.run("");
    bench.settle().await;
    let instance = bench.ec2(|ec2| ec2.instances[id.as_str()].clone());
    let now = Timestamp::UNIX_EPOCH;
    let emulate = |kind| Some(Action::Emulate(failure(kind)));
    let shown = |kind| Some(Action::Impaired(failure(kind)));
    for (state, kind, hardware, expected) in [
        (Running, None, true, None),
        (Running, Some(Accelerator), true, emulate(Accelerator)),
        (Running, Some(Accelerator), false, shown(Accelerator)),
        (Running, Some(Panic), true, emulate(Panic)),
        (Running, Some(Panic), false, shown(Panic)),
        (Running, Some(Stopped), true, emulate(Stopped)),
        (Running, Some(DiskFull), true, shown(DiskFull)),
        (Running, Some(Disk), true, shown(Disk)),
        // QEMU itself crashed.
        (Dead, Some(Accelerator), true, emulate(Accelerator)),
        (Dead, Some(Accelerator), false, Some(Action::Died)),
        // It was killed.
        (Dead, None, true, Some(Action::Died)),
        (PoweredOff, None, true, Some(Action::OwnShutdown)),
    ] {
        let guest = Guest {
            state,
            failure: kind.map(failure),
        };
        let decided = decide(&instance, &guest, hardware, false, now);
        assert_eq!(decided, expected, "{state:?} {kind:?} {hardware}");
    }
}

/// What follows for one that is shown as impaired already, or is to end.
#[tokio::test]
async fn an_impaired_machine_recovers_waits_or_is_killed() {
    use FailureKind::{Accelerator, DiskFull};
    let bench = Bench::new();
    let id = bench.run("");
    bench.settle().await;
    let running = bench.ec2(|ec2| ec2.instances[id.as_str()].clone());
    let at = |seconds| Timestamp::from_second(seconds).unwrap();
    let fault = |kind| Fault {
        failure: failure(kind),
        since: at(0),
        over: None,
    };
    let shown = |kind| Some(Action::Impaired(failure(kind)));
    for (phase, known, now_failing, seconds, expected) in [
        (
            Phase::Running,
            Some(DiskFull),
            None,
            1,
            Some(Action::Recovered),
        ),
        (Phase::Running, Some(DiskFull), Some(DiskFull), 4, None),
        (
            Phase::Running,
            Some(DiskFull),
            Some(DiskFull),
            5,
            Some(Action::Resume),
        ),
        (
            Phase::Running,
            Some(DiskFull),
            Some(Accelerator),
            1,
            shown(Accelerator),
        ),
        (
            Phase::Running,
            Some(Accelerator),
            Some(Accelerator),
            60,
            None,
        ),
        (
            Phase::Stopping,
            None,
            Some(Accelerator),
            0,
            Some(Action::PullPlug),
        ),
        (Phase::Stopping, None, None, 0, Some(Action::PowerOff)),
        (
            Phase::ShuttingDown,
            None,
            Some(Accelerator),
            0,
            Some(Action::PullPlug),
        ),
        (Phase::ShuttingDown, None, None, 0, Some(Action::PowerOff)),
    ] {
        let mut instance = running.clone();
        instance.fault = known.map(fault);
        instance.enter(phase, None, at(0));
        let guest = Guest {
            state: GuestState::Running,
            failure: now_failing.map(failure),
        };
        let decided = decide(&instance, &guest, false, false, at(seconds));
        assert_eq!(
            decided, expected,
            "{phase:?} {known:?} {now_failing:?} {seconds}"
        );
    }
}

#[tokio::test]
async fn a_failed_accelerator_causes_one_restart_under_emulation() {
    let bench = Bench::under(Accelerator::Kvm);
    let (id, other) = (bench.run(""), bench.run(""));
    bench.settle().await;
    assert!(!bench.host.is_emulated(&id.as_str().into()));
    assert_eq!(bench.checks(&id), ("ok".into(), "ok".into(), None));

    bench
        .host
        .fail(&id.as_str().into(), Some(failure(FailureKind::Accelerator)));
    bench.settle().await;
    assert!(bench.host.is_emulated(&id.as_str().into()));
    assert!(!bench.host.is_emulated(&other.as_str().into()));
    assert_eq!(bench.phase(&id), Phase::Running);
    assert_eq!(bench.host.state(&id.as_str().into()), GuestState::Running);
    let event = "[Completed] as the test says; started again under emulation";
    assert_eq!(
        bench.checks(&id),
        ("ok".into(), "ok".into(), Some(event.into()))
    );
    let noted = format!("{id} as the test says; this machine starts again under emulation");
    assert_eq!(bench.host.notes(), [noted]);

    // Under emulation it is not started again: it is shown as what it is, and still obeys.
    bench
        .host
        .fail(&id.as_str().into(), Some(failure(FailureKind::Accelerator)));
    bench.settle().await;
    let event = Some("as the test says".to_owned());
    assert_eq!(
        bench.checks(&id),
        ("impaired".into(), "impaired".into(), event)
    );
    bench.to("Stop", &id);
    bench.settle().await;
    assert_eq!(bench.phase(&id), Phase::Stopped);
    // What failed it once would fail it again.
    bench.to("Start", &id);
    bench.settle().await;
    assert!(bench.host.is_emulated(&id.as_str().into()));
    assert_eq!(bench.checks(&id), ("ok".into(), "ok".into(), None));
}

#[tokio::test]
async fn panics_and_full_disks_fail_the_matching_status_checks() {
    let bench = Bench::new();
    let (panics, full) = (bench.run(""), bench.run(""));
    bench.settle().await;
    bench
        .host
        .fail(&panics.as_str().into(), Some(failure(FailureKind::Panic)));
    bench
        .host
        .fail(&full.as_str().into(), Some(failure(FailureKind::DiskFull)));
    bench.settle().await;
    let text = Some("as the test says".to_owned());
    assert_eq!(
        bench.checks(&panics),
        ("ok".into(), "impaired".into(), text.clone())
    );
    assert_eq!(
        bench.checks(&full),
        ("impaired".into(), "impaired".into(), text)
    );
    // The test's own disk has free space: the next attempt succeeds.
    bench.clock.advance(Duration::from_secs(5));
    bench.settle().await;
    let over = Some("[Completed] as the test says".to_owned());
    assert_eq!(bench.checks(&full), ("ok".into(), "ok".into(), over));
}
