//! Registers customers, logs them in and out, and recognises their sessions.
//!
//! Owns the order of steps, and that a response reveals nothing it should not: a log-in with an unknown login
//! takes the same steps and gets the same response as one with a wrong password. Does not handle HTTP:
//! cookies and headers are read in `api/accounts.rs`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::limits::{Limits, Source, TooMany};
use super::password::{Hashing, NotHashed, Password};
use super::session::{DEVICE_LIFETIME, DeviceToken, SESSION_LIFETIME, SessionToken};
use super::{Account, Accounts, Registered};
use crate::caller::Caller;
use crate::clock::Sweeps;
use crate::order::{AccountId, FieldError, Order, OrderId};
use support::one_line;

/// Shortest and longest login, in characters.
const LOGIN_LENGTH: std::ops::RangeInclusive<usize> = 3..=64;
/// How often expired sessions are deleted; they are already invalid before that.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);

/// Why a request was refused.
#[derive(Debug)]
pub enum Refusal {
    /// The login or the password is wrong; the response does not reveal which.
    WrongCredentials,
    /// Another account has this login.
    Taken,
    /// The chosen login or password is not acceptable.
    Invalid(Vec<FieldError>),
    /// Too many attempts; the next one is allowed after this time.
    TooMany(Duration),
    /// Too many requests at the same time.
    Busy,
    /// The account storage failed or did not respond.
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

/// A session that was just opened.
#[derive(Debug, Clone)]
pub struct Session {
    /// The account's login.
    pub login: String,
    /// The session's token.
    pub token: SessionToken,
    /// When the session expires.
    pub expires_at: Timestamp,
    /// The token that identifies this device at later log-ins.
    pub device: DeviceToken,
}

/// Where a request to register or log in comes from.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The caller's address, if known.
    pub caller: Option<Caller>,
    /// The device token that the request sent, not yet verified.
    pub device: Option<DeviceToken>,
}

/// Accounts with their passwords, sessions and rate limits.
pub struct AccountService {
    accounts: Arc<dyn Accounts>,
    hashing: Hashing,
    limits: Limits,
    sweeps: Mutex<Sweeps>,
}

impl AccountService {
    /// A service that stores its accounts in `accounts`.
    #[must_use]
    pub fn new(accounts: Arc<dyn Accounts>) -> Self {
        Self {
            accounts,
            hashing: Hashing::default(),
            limits: Limits::default(),
            sweeps: Mutex::new(Sweeps::every(SWEEP_INTERVAL)),
        }
    }

    /// Creates an account and opens its first session.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn register(
        &self,
        login: &str,
        password: &str,
        origin: &Origin,
    ) -> Result<Session, Refusal> {
        let normalised = normalise_login(login);
        let name = normalised.as_deref().unwrap_or(login);
        let chosen = Password::choose(password, name);
        let (login, password) = match (normalised, chosen) {
            (Ok(login), Ok(password)) => (login, password),
            (login, password) => {
                let errors = [("login", login.err()), ("password", password.err())];
                let errors = errors.into_iter().filter_map(|(field, message)| {
                    let field = field.to_owned();
                    message.map(|message| FieldError { field, message })
                });
                return Err(Refusal::Invalid(errors.collect()));
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
            Registered::LoginTaken => Err(Refusal::Taken),
        }
    }

    /// Opens a session if `password` is the login's password.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn log_in(
        &self,
        login: &str,
        password: &str,
        origin: &Origin,
    ) -> Result<Session, Refusal> {
        // Such a login cannot exist, so answering at once reveals nothing.
        let login = normalise_login(login).map_err(|_| Refusal::WrongCredentials)?;
        let password = Password::attempt(password).ok_or(Refusal::WrongCredentials)?;
        self.limits.count_request(origin.caller)?;
        let device = self.known_device(&login, origin).await?;
        let from = match &device {
            Some(device) => Source::Device(device.digest()),
            None => Source::Caller(origin.caller),
        };
        self.limits.log_in(&login, from)?;
        match self.authenticate(&login, password).await {
            Ok(account) => {
                self.limits.refund(&login, from);
                self.open(account, device).await
            }
            Err(Refusal::WrongCredentials) => Err(Refusal::WrongCredentials),
            Err(other) => {
                self.limits.refund(&login, from);
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

    async fn authenticate(&self, login: &str, password: Password) -> Result<Account, Refusal> {
        let account = self.accounts.by_login(login).await?;
        let hash = account
            .as_ref()
            .map(|account| account.password_hash.clone());
        let right = self.hashing.matches(password, hash).await?;
        account.filter(|_| right).ok_or(Refusal::WrongCredentials)
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
        self.sweep_if_due();
        Ok(Session {
            login: account.login,
            token,
            expires_at,
            device,
        })
    }

    /// Ends a session, if it exists.
    ///
    /// # Errors
    /// If the account storage fails.
    pub async fn log_out(&self, token: &SessionToken) -> anyhow::Result<()> {
        self.accounts.close_session(token.digest()).await
    }

    /// The account of an unexpired session.
    ///
    /// # Errors
    /// If the account storage fails.
    pub async fn session(&self, token: &SessionToken) -> anyhow::Result<Option<AccountId>> {
        self.accounts
            .session(token.digest(), Timestamp::now())
            .await
    }

    /// The login of an account.
    ///
    /// # Errors
    /// If the account storage fails.
    pub async fn login(&self, id: AccountId) -> anyhow::Result<Option<String>> {
        let account = self.accounts.by_id(id).await?;
        Ok(account.map(|account| account.login))
    }

    /// The account's orders with ids below `before`, newest first, at most `limit`.
    ///
    /// # Errors
    /// If the account storage fails.
    pub async fn orders(
        &self,
        account: AccountId,
        before: Option<OrderId>,
        limit: usize,
    ) -> anyhow::Result<Vec<Order>> {
        self.accounts.orders(account, before, limit).await
    }

    /// Called at log-in, since only log-ins create sessions that could accumulate.
    fn sweep_if_due(&self) {
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
                tracing::warn!(
                    error = one_line(&error),
                    "expired sessions were not deleted"
                );
            }
        });
    }
}

/// Validates a login and returns it in the form in which it is stored.
fn normalise_login(text: &str) -> Result<String, String> {
    let login = text.trim();
    if !LOGIN_LENGTH.contains(&login.chars().count()) {
        let (least, most) = LOGIN_LENGTH.into_inner();
        return Err(format!("must have {least} to {most} characters"));
    }
    // Similar-looking letters of other scripts would let one customer pose as another.
    let fits = |c: char| c.is_ascii_alphanumeric() || "@._+-".contains(c);
    if !login.chars().all(fits) {
        return Err("may have letters from a to z, digits and @ . _ + - only".to_owned());
    }
    Ok(login.to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
