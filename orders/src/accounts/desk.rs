//! The desk where customers say who they are: registers, logs in, knows sessions again.
//!
//! Owns the order of steps, and that an answer tells nothing it should not: a log-in at a login that
//! does not exist takes the same steps and gets the same answer as one with a wrong password. Knows
//! no HTTP: cookies and headers are read in `api/accounts.rs`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::limits::{Limits, Source, TooMany};
use super::password::{Hashing, NotHashed, Password};
use super::session::{DEVICE_LIFETIME, DeviceToken, SESSION_LIFETIME, SessionToken};
use super::{Account, Accounts, Registered};
use crate::caller::Caller;
use crate::chain::one_line;
use crate::clock::Sweeps;
use crate::order::{AccountId, Fault, Order, OrderId};

/// Shortest and longest login, in characters.
const LOGIN_LENGTH: std::ops::RangeInclusive<usize> = 3..=64;
/// Sessions that have ended are forgotten about this often; they are worthless before.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);

/// Why somebody was sent away.
#[derive(Debug)]
pub enum Refusal {
    /// The login or the password is wrong; which of them is not said.
    Wrong,
    /// The login belongs to somebody.
    Taken,
    /// What was chosen does not fit.
    Unfit(Vec<Fault>),
    /// There were too many tries; the next one after so long.
    TooMany(Duration),
    /// Too many at the same time.
    Busy,
    /// The place of accounts did not answer, or something else went wrong.
    Unavailable(anyhow::Error),
}

impl From<TooMany> for Refusal {
    fn from(TooMany(wait): TooMany) -> Self {
        Self::TooMany(wait)
    }
}

impl From<NotHashed> for Refusal {
    fn from(error: NotHashed) -> Self {
        match error {
            NotHashed::Busy => Self::Busy,
            NotHashed::Failed(error) => Self::Unavailable(error),
        }
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self::Unavailable(error)
    }
}

/// A session just opened.
#[derive(Debug, Clone)]
pub struct Session {
    /// Whose it is, by name.
    pub login: String,
    /// What to show to be known again.
    pub token: SessionToken,
    /// Until when.
    pub expires_at: Timestamp,
    /// By which its device is known from now on.
    pub device: DeviceToken,
}

/// Where a request to register or log in comes from.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The caller, where it is known.
    pub caller: Option<Caller>,
    /// The token of a device that had a session before, as it says.
    pub device: Option<DeviceToken>,
}

/// Where customers say who they are.
pub struct Desk {
    accounts: Arc<dyn Accounts>,
    hashing: Hashing,
    limits: Limits,
    sweeps: Mutex<Sweeps>,
}

impl Desk {
    /// The desk over a place of accounts.
    #[must_use]
    pub fn new(accounts: Arc<dyn Accounts>) -> Self {
        Self {
            accounts,
            hashing: Hashing::default(),
            limits: Limits::default(),
            sweeps: Mutex::new(Sweeps::every(SWEEP_INTERVAL)),
        }
    }

    /// Makes a new account and opens its first session.
    ///
    /// # Errors
    /// Why not.
    pub async fn register(
        &self,
        login: &str,
        password: &str,
        origin: &Origin,
    ) -> Result<Session, Refusal> {
        let judged = judge_login(login);
        let name = judged.as_deref().unwrap_or(login);
        let chosen = Password::choose(password, name);
        let (login, password) = match (judged, chosen) {
            (Ok(login), Ok(password)) => (login, password),
            (login, password) => {
                let faults = [("login", login.err()), ("password", password.err())];
                let faults = faults.into_iter().filter_map(|(field, message)| {
                    let field = field.to_owned();
                    message.map(|message| Fault { field, message })
                });
                return Err(Refusal::Unfit(faults.collect()));
            }
        };
        self.limits.register(origin.caller)?;
        let account = Account {
            id: AccountId::new(),
            login,
            password_hash: self.hashing.hash(password).await?,
            created_at: Timestamp::now(),
        };
        match self.accounts.register(&account).await? {
            Registered::Now => self.open(account, None).await,
            Registered::Taken => Err(Refusal::Taken),
        }
    }

    /// Opens a session for who knows the login's password.
    ///
    /// # Errors
    /// Why not.
    pub async fn log_in(
        &self,
        login: &str,
        password: &str,
        origin: &Origin,
    ) -> Result<Session, Refusal> {
        // What cannot have been registered: known to everybody, and so no secret to keep.
        let login = judge_login(login).map_err(|_| Refusal::Wrong)?;
        let password = Password::attempt(password).ok_or(Refusal::Wrong)?;
        self.limits.knock(origin.caller)?;
        let device = self.known_device(&login, origin).await?;
        let from = match &device {
            Some(device) => Source::Device(device.digest()),
            None => Source::Caller(origin.caller),
        };
        self.limits.log_in(&login, from)?;
        match self.prove(&login, password).await {
            Ok(account) => {
                self.limits.forgive(&login, from);
                self.open(account, device).await
            }
            Err(Refusal::Wrong) => Err(Refusal::Wrong),
            Err(other) => {
                self.limits.forgive(&login, from);
                Err(other)
            }
        }
    }

    /// The device, if it had a session of this login's account.
    async fn known_device(
        &self,
        login: &str,
        origin: &Origin,
    ) -> Result<Option<DeviceToken>, Refusal> {
        let Some(device) = &origin.device else {
            return Ok(None);
        };
        let now = Timestamp::now();
        let Some(had) = self.accounts.session(device.digest(), now).await? else {
            return Ok(None);
        };
        let account = self.accounts.by_id(had).await?;
        let is_its = account.is_some_and(|account| account.login == login);
        Ok(is_its.then(|| device.clone()))
    }

    async fn prove(&self, login: &str, password: Password) -> Result<Account, Refusal> {
        let account = self.accounts.by_login(login).await?;
        let hash = account
            .as_ref()
            .map(|account| account.password_hash.clone());
        let right = self.hashing.matches(password, hash).await?;
        account.filter(|_| right).ok_or(Refusal::Wrong)
    }

    async fn open(
        &self,
        account: Account,
        device: Option<DeviceToken>,
    ) -> Result<Session, Refusal> {
        let token = SessionToken::new()?;
        let expires_at = Timestamp::now() + SESSION_LIFETIME;
        self.accounts
            .open_session(token.digest(), account.id, expires_at)
            .await?;
        let device = match device {
            Some(device) => device,
            None => {
                let device = DeviceToken::new()?;
                let until = Timestamp::now() + DEVICE_LIFETIME;
                self.accounts
                    .open_session(device.digest(), account.id, until)
                    .await?;
                device
            }
        };
        self.sweep_now_and_then();
        Ok(Session {
            login: account.login,
            token,
            expires_at,
            device,
        })
    }

    /// Ends a session; one that is not there is ended already.
    ///
    /// # Errors
    /// When the place of accounts does not answer.
    pub async fn log_out(&self, token: &SessionToken) -> anyhow::Result<()> {
        self.accounts.close_session(token.digest()).await
    }

    /// Whose session this token's is, if it has not ended.
    ///
    /// # Errors
    /// When the place of accounts does not answer.
    pub async fn session(&self, token: &SessionToken) -> anyhow::Result<Option<AccountId>> {
        self.accounts
            .session(token.digest(), Timestamp::now())
            .await
    }

    /// The login of an account.
    ///
    /// # Errors
    /// When the place of accounts does not answer.
    pub async fn login(&self, id: AccountId) -> anyhow::Result<Option<String>> {
        let account = self.accounts.by_id(id).await?;
        Ok(account.map(|account| account.login))
    }

    /// The account's orders with ids below `before`, newest first, at most `limit`.
    ///
    /// # Errors
    /// When the place of accounts does not answer.
    pub async fn orders(
        &self,
        account: AccountId,
        before: Option<OrderId>,
        limit: usize,
    ) -> anyhow::Result<Vec<Order>> {
        self.accounts.orders(account, before, limit).await
    }

    /// Beside a log-in, since only log-ins make sessions that could pile up.
    fn sweep_now_and_then(&self) {
        let due = {
            let mut sweeps = self.sweeps.lock().unwrap_or_else(PoisonError::into_inner);
            sweeps.due(Instant::now().into_std(), Timestamp::now())
        };
        let Some(now) = due else {
            return;
        };
        let accounts = Arc::clone(&self.accounts);
        tokio::spawn(async move {
            if let Err(error) = accounts.sweep_sessions(now).await {
                tracing::warn!(error = one_line(&error), "ended sessions not swept");
            }
        });
    }
}

/// The login in the one spelling it is kept in.
fn judge_login(text: &str) -> Result<String, String> {
    let login = text.trim();
    if !LOGIN_LENGTH.contains(&login.chars().count()) {
        let (least, most) = LOGIN_LENGTH.into_inner();
        return Err(format!("must have {least} to {most} characters"));
    }
    // Letters that look alike in other scripts would let one customer pose as another.
    let fits = |c: char| c.is_ascii_alphanumeric() || "@._+-".contains(c);
    if !login.chars().all(fits) {
        return Err("may have letters from a to z, digits and @ . _ + - only".to_owned());
    }
    Ok(login.to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
