//! The record of calls, and their faults: by the name of a call, or by its number.
//!
//! A call is named as the method of its trait. Questions of a preflight, such as dry runs and simulations, are no calls here: what they
//! asked is in [`Policy::asked`](super::Policy).

use super::*;

/// The fault of one call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It fails with this error, and nothing was done.
    Refused(CloudError),
    /// It is done, and its answer is lost.
    AnswerLost,
    /// It never returns, and nothing was done: the caller is killed before the service does it.
    Hangs,
    /// It is done and never returns: the caller is killed before it receives the answer.
    HangsAfter,
}

/// A call by its number from now on, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nth {
    /// Of all calls.
    Call(usize),
    /// Of the calls that change something.
    Change(usize),
}

/// Whether a call changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Reads,
    Changes,
}

/// A change by others.
type Happens = fn(&mut AwsState);

/// The calls that were made, and what goes wrong with the next ones.
#[derive(Debug, Default)]
pub struct Calls {
    /// Every call by its name, in order.
    pub made: Vec<&'static str>,
    /// How many of them change something.
    pub changes: usize,
    queued: BTreeMap<&'static str, VecDeque<Fault>>,
    always: BTreeMap<&'static str, CloudError>,
    /// The numbers are counted from the start.
    numbered: Vec<(Nth, Fault)>,
    meanwhile: Option<(&'static str, Happens)>,
}

impl Calls {
    /// Makes the next call of this name go wrong; called again, the one after it.
    pub fn fault(&mut self, call: &'static str, fault: Fault) {
        self.queued.entry(call).or_default().push_back(fault);
    }

    /// Counts a call.
    pub(super) fn record(&mut self, name: &'static str, effect: Effect) {
        self.made.push(name);
        if effect == Effect::Changes {
            self.changes += 1;
        }
    }

    /// What others do during the call that was recorded last.
    pub(super) fn meanwhile(&mut self, name: &str) -> Option<Happens> {
        let happens = self.meanwhile.take_if(|(at, _)| *at == name);
        happens.map(|(_, happens)| happens)
    }

    /// The fault of the call that was recorded last.
    pub(super) fn next_fault(&mut self, name: &str, effect: Effect) -> Option<Fault> {
        let is_now = |nth: &Nth| match nth {
            Nth::Call(at) => *at == self.made.len(),
            Nth::Change(at) => effect == Effect::Changes && *at == self.changes,
        };
        if let Some(now) = self.numbered.iter().position(|(nth, _)| is_now(nth)) {
            return Some(self.numbered.remove(now).1);
        }
        if let Some(error) = self.always.get(name) {
            return Some(Fault::Refused(error.clone()));
        }
        self.queued.get_mut(name).and_then(VecDeque::pop_front)
    }
}

impl InMemoryAws {
    /// Makes the next call of this name go wrong; called again, the one after it.
    pub fn fault(&self, call: &'static str, fault: Fault) {
        self.state().calls.fault(call, fault);
    }

    /// Makes one call go wrong, whatever it is; called again, another one as well.
    pub fn fault_at(&self, nth: Nth, fault: Fault) {
        let calls = &mut self.state().calls;
        let nth = match nth {
            Nth::Call(at) => Nth::Call(calls.made.len() + at),
            Nth::Change(at) => Nth::Change(calls.changes + at),
        };
        calls.numbered.push((nth, fault));
    }

    /// Refuses every call of this name.
    pub fn refuse(&self, call: &'static str, error: CloudError) {
        self.state().calls.always.insert(call, error);
    }

    /// Removes the faults of numbered calls that were not made yet.
    pub fn clear_fault_at(&self) {
        self.state().calls.numbered.clear();
    }

    /// Has others change something during the next call of this name, before its effect.
    pub fn during(&self, call: &'static str, happens: Happens) {
        self.state().calls.meanwhile = Some((call, happens));
    }
}

/// A transient error.
pub fn throttled() -> CloudError {
    CloudError::new(Kind::Throttled, "ask", "Throttling", "Rate exceeded")
}

/// An error of this code.
pub fn failure(code: &str) -> CloudError {
    CloudError::new(Kind::Other, "ask", code, "as arranged")
}

/// The error of a caller who may not do this.
pub fn denied(operation: &str) -> CloudError {
    CloudError::new(Kind::Denied, operation, "AccessDenied", "as arranged")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points a parameter: its answer, none when it hangs, and whether it was done.
    async fn point(aws: &InMemoryAws, name: &str) -> (Option<Result<(), Kind>>, bool) {
        let image = ImageId::parse("ami-1").unwrap();
        let cloud = aws.cloud();
        let hung = aws.hung();
        let answer = tokio::select! {
            answer = cloud.parameters.point(name, &image) => Some(answer),
            () = hung.notified() => None,
        };
        let answer = answer.map(|answer| answer.map_err(|error| error.kind));
        (answer, aws.state().parameters.contains_key(name))
    }

    #[tokio::test]
    async fn a_fault_decides_what_is_done_and_what_is_answered() {
        for (fault, answer, done) in [
            (
                Fault::Refused(throttled()),
                Some(Err(Kind::Throttled)),
                false,
            ),
            (Fault::AnswerLost, Some(Err(Kind::Unreachable)), true),
            (Fault::Hangs, None, false),
            (Fault::HangsAfter, None, true),
        ] {
            let what = format!("{fault:?}");
            let aws = InMemoryAws::default();
            aws.fault("point", fault);
            assert_eq!(point(&aws, "a").await, (answer, done), "{what}");
            assert_eq!(point(&aws, "b").await, (Some(Ok(())), true), "{what}");
        }
    }

    #[tokio::test]
    async fn a_numbered_fault_counts_from_now_on() {
        for (nth, failing) in [(Nth::Change(2), "c"), (Nth::Call(2), "b")] {
            let aws = InMemoryAws::default();
            point(&aws, "a").await;
            aws.fault_at(nth, Fault::Refused(failure("InternalError")));
            let read = aws.cloud().parameters.parameter("a").await;
            assert!(read.is_ok(), "{nth:?}");
            for name in ["b", "c", "d"] {
                let (_, done) = point(&aws, name).await;
                assert_eq!(done, name != failing, "{nth:?}: {name}");
            }
        }
    }

    #[tokio::test]
    async fn others_act_during_a_call_once() {
        let aws = InMemoryAws::default();
        aws.during("point", |state| {
            state.calls.fault("point", Fault::Refused(failure("InUse")));
        });
        assert!(!point(&aws, "a").await.1);
        assert!(point(&aws, "b").await.1);
    }
}
