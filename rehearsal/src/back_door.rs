//! The back door, below `/_rehearsal/` on the cloud's own port: status, dials and the end.
//!
//! It answers whoever has the key from the cloud's folder ([`control`](crate::control) asks that way).
//! A request with an `Origin` comes from a page in a browser and is refused whatever else it has; the
//! door listens on loopback only.

use std::sync::Arc;

use hyper::header::{HeaderMap, ORIGIN};
use hyper::{Method, StatusCode};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::autoscaling;
use crate::cloud::{Cloud, State};
use crate::control::{DaemonNote, KEY_HEADER};
use crate::dials::{self, Dial, Dials, Turn};
use crate::ec2::instances::Instance;
use crate::faults::Faults;
use crate::guests::{GuestState, MachineRoom};
use crate::status::Status;

/// What the back door reaches.
pub(crate) struct BackDoor {
    cloud: Arc<Cloud>,
    room: Arc<dyn MachineRoom>,
    faults: Arc<Faults>,
    note: DaemonNote,
    since: Timestamp,
    stop: watch::Sender<bool>,
}

/// A dial to turn.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Wish {
    /// Which one.
    pub(crate) name: String,
    /// To what.
    pub(crate) value: String,
}

/// An answer, as the caller reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// A text or JSON.
    Text(String),
    /// That the cloud ends, as soon as this was told: see [`BackDoor::end`].
    Farewell,
}

/// A refusal, as the caller reads it.
type Refusal = (StatusCode, String);

impl BackDoor {
    /// The back door of the daemon that `note` is about; `stop` is set when somebody asks for the end.
    pub(crate) fn new(
        cloud: Arc<Cloud>,
        room: Arc<dyn MachineRoom>,
        note: DaemonNote,
        stop: watch::Sender<bool>,
    ) -> Self {
        let since = cloud.now();
        Self {
            cloud,
            room,
            faults: Arc::default(),
            note,
            since,
            stop,
        }
    }

    /// Faults of the wire, for the door to play.
    pub(crate) fn faults(&self) -> Arc<Faults> {
        Arc::clone(&self.faults)
    }

    /// Answers one request; waits for the disk when it changes something.
    ///
    /// # Errors
    /// A refusal, with its status.
    pub(crate) fn answer(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Said, Refusal> {
        if !may_enter(headers, &self.note.key) {
            let why = "this door opens with the key in the cloud's folder, and not from a page";
            return Err((StatusCode::FORBIDDEN, why.to_owned()));
        }
        let text = match (method, path) {
            (&Method::GET, "health") => Ok("up\n".to_owned()),
            (&Method::GET, "status") => json(&self.status()),
            (&Method::GET, "dials") => json(&self.dials()),
            (&Method::PUT, "dials") => {
                let wish: Wish = serde_json::from_slice(body)
                    .map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
                let turn = Turn::read(&wish.name, &wish.value)
                    .map_err(|why| (StatusCode::BAD_REQUEST, why))?;
                self.turn(turn)?;
                tracing::info!(dial = wish.name, value = wish.value, "a dial was turned");
                Ok(format!("{} is {}\n", wish.name, wish.value))
            }
            (&Method::POST, "down") => return Ok(Said::Farewell),
            _ => Err((StatusCode::NOT_FOUND, "no such path".to_owned())),
        };
        text.map(Said::Text)
    }

    /// Ends the cloud. To be called when the farewell has left: the daemon does not wait for it.
    pub(crate) fn end(&self) {
        self.stop.send_replace(true);
    }

    fn status(&self) -> Status {
        let dials = self.dials();
        let mut status = self
            .cloud
            .look(|state, now| Status::of(state, now, &self.note, self.since, dials));
        status.add_machines(&*self.room);
        status
    }

    fn dials(&self) -> Vec<Dial> {
        self.cloud
            .look(|state, _| dials::list(&state.autoscaling, &state.region.dials, &self.faults))
    }

    fn turn(&self, turn: Turn) -> Result<(), Refusal> {
        match turn {
            Turn::Switch(name, value) => self
                .keep(|state| autoscaling::set_switch(&mut state.autoscaling, &name, &value))?
                .map_err(|why| (StatusCode::BAD_REQUEST, why)),
            Turn::Throttle(service, every) => {
                self.keep(|state| state.region.dials.throttle(&service, every))
            }
            Turn::Deny(action, on) => self.keep(|state| state.region.dials.deny(&action, on)),
            Turn::Alarm(name, alarm) => {
                self.keep(|state| state.region.dials.set_alarm(&name, alarm))
            }
            Turn::LaunchError(group, error) => {
                self.keep(|state| state.region.dials.set_launch_error(&group, error))
            }
            Turn::SpotReclaim(id) => {
                self.alive(&id)?;
                self.cloud
                    .change(|state, now| state.region.ec2.reclaim(&id, now))
                    .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")))
            }
            Turn::SlowBoot(seconds) => self.keep(|state| state.region.dials.slow_boot = seconds),
            Turn::SpotInterruption(id, action) => {
                self.announce(&id, |dials, now| dials.interrupt(&id, action, now))
            }
            Turn::Rebalance(id, on) => {
                self.announce(&id, |dials, now| dials.recommend_rebalance(&id, on, now))
            }
            Turn::ScheduledEvent(id, event) => {
                self.announce(&id, |dials, now| dials.schedule(&id, event, now))
            }
            Turn::LoseAnswers(service, action, times) => {
                self.faults.lose(&service, &action, times);
                Ok(())
            }
            Turn::KillGuest(id) if self.room.state(&id) == GuestState::Running => {
                self.room.kill(&id);
                Ok(())
            }
            Turn::KillGuest(id) => Err((
                StatusCode::BAD_REQUEST,
                format!(
                    "no machine runs for {id:?}\nhint: `rehearsal status DIR` shows those that do"
                ),
            )),
        }
    }

    /// Refuses an instance that is not there.
    fn alive(&self, id: &str) -> Result<(), Refusal> {
        let known = |state: &State| {
            let instance = state.region.ec2.instances.get(id);
            instance.is_some_and(Instance::is_alive)
        };
        if !self.cloud.look(|state, _| known(state)) {
            return Err((
                StatusCode::BAD_REQUEST,
                format!(
                    "there is no instance {id:?}\nhint: `rehearsal status DIR` shows those there are"
                ),
            ));
        }
        Ok(())
    }

    /// Has something announced in the metadata of an instance that is there.
    fn announce(&self, id: &str, turn: impl FnOnce(&mut Dials, Timestamp)) -> Result<(), Refusal> {
        self.alive(id)?;
        self.cloud
            .change(|state, now| turn(&mut state.region.dials, now))
            .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")))
    }

    fn keep<T>(&self, act: impl FnOnce(&mut State) -> T) -> Result<T, Refusal> {
        self.cloud
            .change(|state, _| act(state))
            .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")))
    }
}

fn may_enter(headers: &HeaderMap, key: &str) -> bool {
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
    fn only_the_key_opens_and_never_for_a_page() {
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
            assert_eq!(may_enter(&map, "k"), expected, "{headers:?}");
        }
    }
}
