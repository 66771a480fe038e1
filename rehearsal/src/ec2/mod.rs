//! EC2: images, instances, disks and their network.
//!
//! It keeps the state only: it starts no machine and copies no disk. What is to be done is recorded in the state, and
//! `machines.rs` carries it out and records the result.
//!
//! # Not as on AWS
//!
//! - An instance's private address is an address of this host's loopback network; its public address and DNS name are
//!   that same address. Security groups are kept and shown, and filter nothing.
//! - Every machine has 2 CPUs and 512 MiB, whatever its type; only x86_64 runs, and arm64 as a puppet. Status
//!   checks pass as soon as the machine is started, not when its system is up.
//! - Only the root volume is attached to the machine; the others are kept, shown and copied. Encryption, IOPS and
//!   throughput are shown and have no effect. Volumes and snapshots come with instances and images: CreateVolume,
//!   AttachVolume, CreateSnapshot and CopySnapshot are `InvalidAction`. CopyImage copies within the region. Keys
//!   (KmsKeyId) are not checked for existence. A snapshot's progress is 0 % or 100 %.
//! - CreateImage powers a running instance off and on again, and refuses NoReboot for one. A stop, a reboot and a
//!   termination power the machine off; a terminating machine is killed after 30 s.
//! - There is one VPC, the default one, and no other network objects but each instance's interface. Placement groups,
//!   dedicated hosts and IPv6 are absent. Spot has no prices and one-time requests only; CPU credits change nothing.
//! - Instance profiles are not checked for existence; their credentials are generated, change hourly and permit
//!   everything.
//! - Nothing is eventually consistent: every change is visible at once. DryRun runs the same checks, without IAM.

pub(crate) mod adapters;
pub(crate) mod boot_mode;
mod calls;
mod copy;
pub(crate) mod cpu;
pub(crate) mod credit_calls;
pub(crate) mod disk_calls;
pub(crate) mod disks;
pub(crate) mod encryption;
pub(crate) mod image_calls;
pub(crate) mod image_lifecycle;
pub(crate) mod images;
pub(crate) mod instance_attributes;
pub(crate) mod instance_lifecycle;
pub(crate) mod instance_types;
pub(crate) mod instance_views;
pub(crate) mod instances;
pub(crate) mod interface_calls;
pub(crate) mod interfaces;
pub(crate) mod key_calls;
pub(crate) mod keys;
pub(crate) mod network;
pub(crate) mod network_calls;
pub(crate) mod run;
pub(crate) mod security_group_calls;
pub(crate) mod security_groups;
pub(crate) mod select;
pub(crate) mod spot;
pub(crate) mod spot_calls;
mod state;
pub(crate) mod tag_calls;
pub(crate) mod tags;
pub(crate) mod template_calls;
pub(crate) mod templates;
pub(crate) mod tokens;

pub(crate) use calls::handle;
pub(crate) use instance_lifecycle::tick;
pub(crate) use instance_views::console_output;
pub(crate) use state::State;

#[cfg(test)]
pub(crate) use calls::all_specs;
