//! The daemon: opens a cloud's folder, starts its VM host, HTTP endpoint and load balancer, ticks, and shuts all of it
//! down.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use support::shell::quoted_path;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::adapters::RegionAt;
use crate::admin::AdminApi;
use crate::autoscaling;
use crate::balancer;
use crate::balancer_source::BalancerSource;
use crate::clock::RealClock;
use crate::cloud::{Cloud, Region};
use crate::control::{DAEMON_FILE, DaemonInfo};
use crate::disks;
use crate::ec2;
use crate::elb;
use crate::files::write_durably;
use crate::guests::{self, HostKind};
use crate::http::HttpServer;
use crate::loopback;
use crate::machines::Machines;
use crate::metadata::Metadata;
use crate::ssm;
use crate::wire::ids;

/// How often machines and timers are checked when no request changes anything.
const TICK: Duration = Duration::from_millis(250);
/// Pause after a tick, as a multiple of the processor time it took, even if changes are pending. A tick visits
/// everything, and must not take more than a share of the host.
const REST: u32 = 4;

/// Debian's suites and their release numbers.
const SUITES: [(&str, u32); 4] = [
    ("bullseye", 11),
    ("bookworm", 12),
    ("trixie", 13),
    ("forky", 14),
];
/// The release that a base image of unknown suite is named after.
const USUAL_SUITE: u32 = 12;

/// Settings of a cloud.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The cloud's folder.
    pub(crate) folder: PathBuf,
    /// The endpoint's port; 0 picks one.
    pub(crate) port: u16,
    /// How instances run.
    pub(crate) guests: HostKind,
    /// Further ports of each guest that are forwarded.
    pub(crate) guest_ports: Vec<u16>,
    /// The disk image to register as Debian's own.
    pub(crate) base_image: Option<PathBuf>,
}

/// Runs the cloud until `down`, SIGTERM or SIGINT.
///
/// # Errors
/// When the folder is locked or unreadable, the port is in use, or a program for guests is missing.
pub(crate) async fn run(settings: &Settings) -> anyhow::Result<()> {
    let _lock = lock(&settings.folder)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, settings.port)).await.with_context(|| {
        format!("listen on 127.0.0.1:{}\nhint: another program uses the port; choose one with --port, or 0 for any", settings.port)
    })?;
    let port = listener
        .local_addr()
        .context("read the endpoint's port")?
        .port();
    let cloud = Arc::new(Cloud::open(&settings.folder, Arc::new(RealClock))?);
    let puppets = matches!(settings.guests, HostKind::Puppets { .. });
    cloud.change(|state, _| state.region.ec2.puppets = puppets)?;
    let _addresses = loopback::claim(&cloud)?;
    let disks = disks::open(&settings.guests, cloud.folder())?;
    let metadata = Arc::new(Metadata::new(Arc::clone(&cloud), port));
    let host = guests::open(&settings.guests, cloud.folder(), metadata)?;
    let machines = Machines::new(
        Arc::clone(&cloud),
        Arc::clone(&host),
        disks,
        settings.guest_ports.clone(),
    );
    register_base_image(&cloud, settings)?;
    let importing = Arc::clone(&machines);
    tokio::task::spawn_blocking(move || importing.import_base_images())
        .await
        .context("import the base image")??;
    let (stop, mut stopped) = watch::channel(false);
    let info = DaemonInfo {
        pid: std::process::id(),
        port,
        key: ids::uuid(),
        accelerator: host.choice().map(|choice| choice.accelerator),
    };
    let admin = AdminApi::new(Arc::clone(&cloud), Arc::clone(&host), info.clone(), stop);
    let server = Arc::new(HttpServer::new(Arc::clone(&cloud), host, admin)?);
    let info_path = settings.folder.join(DAEMON_FILE);
    let info = serde_json::to_vec(&info).context("encode the daemon's port")?;
    let serving = tokio::spawn(server.serve(listener));
    let source = Arc::clone(&cloud) as Arc<dyn BalancerSource>;
    let balancer = tokio::spawn(balancer::run(source, stopped.clone()));
    write_durably(&info_path, &info)?;
    tracing::info!(port, folder = %settings.folder.display(), "the cloud is up");

    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    // Whether the last tick failed to write the state: it is logged once, not four times a second.
    let mut unwritten = false;
    let mut rested = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = async { cloud.changed().await; tokio::time::sleep_until(rested).await } => {}
            _ = stopped.wait_for(|stopped| *stopped) => break,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
        let ticking = (Arc::clone(&cloud), Arc::clone(&machines));
        let (ticked, took) = tokio::task::spawn_blocking(move || {
            let begun = processor_time();
            let (cloud, machines) = ticking;
            // Machines are checked even while the state cannot be written.
            let ticked = tick(&cloud).and(machines.step()).and(cloud.rewrite());
            (ticked, processor_time().saturating_sub(begun))
        })
        .await
        .context("tick")?;
        rested = Instant::now() + REST * took;
        // A full disk does not end the guests: changes are kept in memory and written once there is space.
        match ticked {
            Ok(()) => unwritten = false,
            Err(error) if !unwritten => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the cloud's state is not on disk"
                );
                unwritten = true;
            }
            Err(_) => {}
        }
    }
    tracing::info!("the cloud is shutting down");
    // Before the endpoint closes: guests may still send requests while they shut down.
    machines.end().await;
    serving.abort();
    balancer.abort();
    fs::remove_file(&info_path).with_context(|| format!("remove {}", info_path.display()))
}

/// Registers Debian's image in a new cloud: of the given file, or for puppets, which boot nothing, of an empty disk.
fn register_base_image(cloud: &Cloud, settings: &Settings) -> anyhow::Result<()> {
    let file = match (&settings.base_image, &settings.guests) {
        (Some(file), _) => Some(
            file.canonicalize()
                .with_context(|| format!("find the base image {}", file.display()))?,
        ),
        (None, _) if cloud.read(|state, _| state.region.ec2.has_base_image()) => return Ok(()),
        (None, HostKind::Puppets { .. }) => None,
        (None, HostKind::Qemu(_)) => bail!(
            "a new cloud needs a base image\nhint: add `--base-image \"$(rehearsal base-image --cache DIR)\"`, or use `--guests puppets`"
        ),
    };
    let suite = file.as_deref().and_then(suite).unwrap_or(USUAL_SUITE);
    // Debian's own images boot by both kinds of firmware. One without boot code for BIOS, such as a base image of an
    // earlier release, boots by UEFI only, and a launch with a type without UEFI must be refused.
    let boot_mode = match &file {
        Some(file) if !disks::has_boot_code(file)? => "uefi",
        _ => "uefi-preferred",
    };
    cloud.change(|state, now| {
        let ec2 = &mut state.region.ec2;
        ec2.register_base_image(suite, file, boot_mode, now);
    })
}

/// Debian's release number, from the suite in a base image's file name (`debian-bookworm-….raw`).
fn suite(file: &Path) -> Option<u32> {
    let name = file.file_name()?.to_str()?;
    SUITES
        .iter()
        .find(|(suite, _)| name.contains(suite))
        .map(|(_, number)| *number)
}

/// The processor time of this thread so far.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn tick(cloud: &Cloud) -> anyhow::Result<()> {
    cloud.change(|state, now| {
        let Region { ec2, elb, ssm, .. } = &mut state.region;
        ec2::tick(ec2, now);
        elb::tick(elb, ec2, now);
        ssm::tick(ssm, ec2, now);
        let mut environment = RegionAt {
            region: &mut state.region,
            now,
        };
        autoscaling::tick(&mut state.autoscaling, &mut environment, now);
    })
}

/// Locks the folder for this daemon. The lock belongs to the process, not to its children, and ends with it. It would
/// also end if the daemon closed another descriptor of this file, so the file is opened only here.
fn lock(folder: &Path) -> anyhow::Result<File> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let path = folder.join("lock");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::AGAIN | Errno::ACCESS) => {
            bail!(
                "the cloud in {} is already up\nhint: `rehearsal status {}` shows it",
                folder.display(),
                quoted_path(folder)
            )
        }
        Err(error) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}
