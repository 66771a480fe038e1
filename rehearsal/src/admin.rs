//! The admin API, below `/_rehearsal/` on the endpoint's port: status, dials and shutdown.
//!
//! It answers callers that send the key from the cloud's folder ([`control`](crate::control) does). A request with an
//! `Origin` comes from a page in a browser and is always refused. The endpoint listens on loopback only.

use std::sync::Arc;

use hyper::header::{HeaderMap, ORIGIN};
use hyper::{Method, StatusCode};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::autoscaling;
use crate::cloud::{Cloud, State};
use crate::control::{DaemonInfo, KEY_HEADER};
use crate::ec2::instances::Instance;
use crate::fault_counters::FaultCounters;
use crate::faults::{self, Dial, DialChange, Faults};
use crate::guests::{GuestState, VmHost};
use crate::ids::InstanceId;
use crate::status::Status;

/// The admin API of one daemon.
pub(crate) struct AdminApi {
    cloud: Arc<Cloud>,
    host: Arc<dyn VmHost>,
    fault_counters: Arc<FaultCounters>,
    info: DaemonInfo,
    since: Timestamp,
    stop: watch::Sender<bool>,
}

/// A dial and its new value.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct DialRequest {
    /// The dial.
    pub(crate) name: String,
    /// Its new value.
    pub(crate) value: String,
}

/// A successful answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AdminResponse {
    /// A text or JSON.
    Text(String),
    /// The answer to `down`. The cloud ends once it was sent: see [`AdminApi::end`].
    Shutdown,
}

/// A refusal: status and text.
type Refusal = (StatusCode, String);

impl AdminApi {
    /// The admin API of the daemon that `info` describes; [`AdminApi::end`] sets `stop`.
    pub(crate) fn new(
        cloud: Arc<Cloud>,
        host: Arc<dyn VmHost>,
        info: DaemonInfo,
        stop: watch::Sender<bool>,
    ) -> Self {
        let since = cloud.now();
        Self {
            cloud,
            host,
            fault_counters: Arc::default(),
            info,
            since,
            stop,
        }
    }

    /// The counters of injected faults, for the HTTP server.
    pub(crate) fn fault_counters(&self) -> Arc<FaultCounters> {
        Arc::clone(&self.fault_counters)
    }

    /// Answers one request; a change waits for the disk.
    ///
    /// # Errors
    /// A refusal, with its status.
    pub(crate) fn answer(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<AdminResponse, Refusal> {
        if !is_authorized(headers, &self.info.key) {
            let why = "the admin API requires the key from the cloud's folder, and refuses requests from web pages";
            return Err((StatusCode::FORBIDDEN, why.to_owned()));
        }
        let text = match (method, path) {
            (&Method::GET, "health") => Ok("up\n".to_owned()),
            (&Method::GET, "status") => json(&self.status()),
            (&Method::GET, "dials") => json(&self.dials()),
            (&Method::PUT, "dials") => {
                let request: DialRequest = serde_json::from_slice(body)
                    .map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
                let apply = DialChange::read(&request.name, &request.value)
                    .map_err(|why| (StatusCode::BAD_REQUEST, why))?;
                self.apply(apply)?;
                tracing::info!(dial = request.name, value = request.value, "a dial was set");
                Ok(format!("{} is {}\n", request.name, request.value))
            }
            (&Method::POST, "down") => return Ok(AdminResponse::Shutdown),
            _ => Err((StatusCode::NOT_FOUND, "no such path".to_owned())),
        };
        text.map(AdminResponse::Text)
    }

    /// Ends the cloud. To be called after the response to `down` was sent: the daemon does not wait for connections.
    pub(crate) fn end(&self) {
        self.stop.send_replace(true);
    }

    fn status(&self) -> Status {
        let dials = self.dials();
        let mut status = self
            .cloud
            .read(|state, now| Status::of(state, now, &self.info, self.since, dials));
        status.add_machines(&*self.host);
        status
    }

    fn dials(&self) -> Vec<Dial> {
        self.cloud.read(|state, _| {
            faults::list(
                &state.autoscaling,
                &state.region.faults,
                &self.fault_counters,
            )
        })
    }

    fn apply(&self, apply: DialChange) -> Result<(), Refusal> {
        match apply {
            DialChange::Switch(name, value) => self
                .keep(|state| autoscaling::set_switch(&mut state.autoscaling, &name, &value))?
                .map_err(|why| (StatusCode::BAD_REQUEST, why)),
            DialChange::Throttle(service, every) => {
                self.keep(|state| state.region.faults.throttle(&service, every))
            }
            DialChange::Deny(action, on) => {
                self.keep(|state| state.region.faults.deny(&action, on))
            }
            DialChange::Alarm(name, alarm) => {
                self.keep(|state| state.region.faults.set_alarm(&name, alarm))
            }
            DialChange::LaunchError(group, error) => {
                self.keep(|state| state.region.faults.set_launch_error(&group, error))
            }
            DialChange::SpotReclaim(id) => {
                self.alive(&id)?;
                self.cloud
                    .change(|state, now| state.region.ec2.reclaim(&id, now))
                    .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")))
            }
            DialChange::SlowBoot(seconds) => {
                self.keep(|state| state.region.faults.slow_boot = seconds)
            }
            DialChange::SpotInterruption(id, action) => {
                self.announce(&id, |faults, now| faults.interrupt(&id, action, now))
            }
            DialChange::Rebalance(id, on) => {
                self.announce(&id, |faults, now| faults.recommend_rebalance(&id, on, now))
            }
            DialChange::ScheduledEvent(id, event) => {
                self.announce(&id, |faults, now| faults.schedule(&id, event, now))
            }
            DialChange::LoseAnswers(service, action, times) => {
                self.fault_counters.lose(&service, &action, times);
                Ok(())
            }
            DialChange::KillGuest(id) if self.host.state(&id) == GuestState::Running => {
                self.host.kill(&id);
                Ok(())
            }
            DialChange::KillGuest(id) => Err((
                StatusCode::BAD_REQUEST,
                format!(
                    "no machine runs for {:?}\nhint: `rehearsal status DIR` lists the running ones",
                    id.as_str()
                ),
            )),
        }
    }

    /// Refuses an unknown or terminated instance.
    fn alive(&self, id: &InstanceId) -> Result<(), Refusal> {
        let known = |state: &State| {
            let instance = state.region.ec2.instances.get(id);
            instance.is_some_and(Instance::is_alive)
        };
        if !self.cloud.read(|state, _| known(state)) {
            return Err((
                StatusCode::BAD_REQUEST,
                format!(
                    "there is no instance {:?}\nhint: `rehearsal status DIR` lists them",
                    id.as_str()
                ),
            ));
        }
        Ok(())
    }

    /// Changes what the metadata of an existing instance announces.
    fn announce(
        &self,
        id: &InstanceId,
        apply: impl FnOnce(&mut Faults, Timestamp),
    ) -> Result<(), Refusal> {
        self.alive(id)?;
        self.cloud
            .change(|state, now| apply(&mut state.region.faults, now))
            .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")))
    }

    fn keep<T>(&self, act: impl FnOnce(&mut State) -> T) -> Result<T, Refusal> {
        self.cloud
            .change(|state, _| act(state))
            .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")))
    }
}

fn is_authorized(headers: &HeaderMap, key: &str) -> bool {
    let shown = headers.get(KEY_HEADER);
    !headers.contains_key(ORIGIN) && shown.is_some_and(|shown| shown.as_bytes() == key.as_bytes())
}

fn json(value: &impl serde::Serialize) -> Result<String, Refusal> {
    serde_json::to_string(value)
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_authorizes_and_never_a_browser_page() {
        let table: [(&[(&str, &str)], bool); 5] = [
            (&[("x-rehearsal-key", "k")], true),
            (&[], false),
            (&[("x-rehearsal-key", "wrong")], false),
            (&[("x-rehearsal-key", "")], false),
            (
                &[
                    ("x-rehearsal-key", "k"),
                    ("origin", "http://127.0.0.1:4800"),
                ],
                false,
            ),
        ];
        for (headers, expected) in table {
            let map = headers
                .iter()
                .map(|(name, value)| {
                    let name: hyper::header::HeaderName = name.parse().unwrap();
                    (name, value.parse().unwrap())
                })
                .collect();
            assert_eq!(is_authorized(&map, "k"), expected, "{headers:?}");
        }
    }
}
