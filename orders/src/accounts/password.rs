//! Passwords: which are accepted, and how they are stored (argon2id), a few at a time.
//!
//! Hashing costs memory and time on purpose. Limits on concurrent and waiting hashes keep a flood of log-ins
//! from taking the memory that orders need; what does not get its turn in time is refused.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use argon2::password_hash::phc::{Output, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

/// Shortest password, in characters; NIST SP 800-63B requires at least 8.
pub(super) const PASSWORD_SHORTEST: usize = 10;
/// Longest password, in characters; hashing reads all of it.
pub(super) const PASSWORD_LONGEST: usize = 200;

/// Memory, passes and lanes of one hash: of OWASP's equally strong choices, one that needs little memory. A
/// log-in took 16 to 27 ms when measured.
/// <https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html>
const MEMORY_KIB: u32 = 12 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 1;
/// Concurrent hashes: at most 24 MiB.
const MAX_CONCURRENT: usize = 2;
/// Longest wait for a turn: about thirty hashes.
const WAIT_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests waiting for their turn.
const MAX_WAITING: usize = 64;

/// A password as it was typed. `Debug` does not show it.
#[derive(Clone)]
pub(super) struct Password(String);

impl Password {
    /// Validates a new password.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn choose(text: &str, login: &str) -> Result<Self, String> {
        let length = text.chars().count();
        let first = text.chars().next();
        if length < PASSWORD_SHORTEST {
            return Err(format!("is shorter than {PASSWORD_SHORTEST} characters"));
        }
        if length > PASSWORD_LONGEST {
            return Err(format!("is longer than {PASSWORD_LONGEST} characters"));
        }
        if text.chars().all(|letter| Some(letter) == first) {
            return Err("is one character over and over".to_owned());
        }
        if is_common(text) {
            return Err("is one of those that guessers try first".to_owned());
        }
        // Guessers try the login first.
        let rest = text.to_lowercase().replace(login, "");
        if rest.chars().count() < PASSWORD_SHORTEST && rest.len() < text.len() {
            return Err("is little more than the login".to_owned());
        }
        Ok(Self(text.to_owned()))
    }

    /// A password to check; `None` if nobody can have chosen it.
    #[must_use]
    pub(super) fn attempt(text: &str) -> Option<Self> {
        (text.chars().count() <= PASSWORD_LONGEST).then(|| Self(text.to_owned()))
    }
}

/// What most leaked passwords contain, in lower case: guessers try each of these with digits and signs around
/// it.
const COMMON: [&str; 36] = [
    "",
    "password",
    "passwort",
    "passw",
    "pass",
    "qwerty",
    "qwertyuiop",
    "qwertz",
    "qwertzuiop",
    "azerty",
    "asdfgh",
    "asdfghjkl",
    "zxcvbnm",
    "qazwsx",
    "qazwsxedc",
    "letmein",
    "welcome",
    "iloveyou",
    "admin",
    "administrator",
    "login",
    "secret",
    "changeme",
    "default",
    "master",
    "monkey",
    "dragon",
    "football",
    "baseball",
    "sunshine",
    "princess",
    "superman",
    "starwars",
    "trustno",
    "whatever",
    "flowershop",
];

/// Whether a password is a common one, ignoring surrounding digits and signs and common substitutions.
fn is_common(text: &str) -> bool {
    let plain: String = text
        .to_lowercase()
        .chars()
        .map(|c| match c {
            '@' => 'a',
            '0' => 'o',
            '$' => 's',
            c => c,
        })
        .collect();
    let bare = |text: &str| {
        let word = text.trim_matches(|c: char| !c.is_alphabetic());
        // Digits alone are common if they are in sequence.
        if word.is_empty() {
            let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
            let in_a_row = |step: u32| digits.windows(2).all(|two| (two[0] + step) % 10 == two[1]);
            return digits.len() == text.chars().count() && (in_a_row(1) || in_a_row(9));
        }
        COMMON.contains(&word)
    };
    bare(&text.to_lowercase()) || bare(plain.trim_end_matches('o'))
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Why there is no hash.
#[derive(Debug)]
pub(super) enum NotHashed {
    /// Too many are waiting already.
    Busy,
    /// Hashing failed.
    Failed(anyhow::Error),
}

/// Computes and compares hashes, a few at a time.
#[derive(Debug, Clone)]
pub(super) struct Hashing {
    waiting: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    /// Buffers for computing hashes, reused. Returned to the allocator they would remain in one thread's
    /// arena after the other: half a gigabyte after two hundred log-ins.
    memories: Arc<Mutex<Vec<Memory>>>,
}

type Memory = Vec<Block>;

impl Default for Hashing {
    fn default() -> Self {
        Self {
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            turns: Arc::new(Semaphore::new(MAX_CONCURRENT)),
            memories: Arc::default(),
        }
    }
}

impl Hashing {
    /// Hashes the password with a new salt; returns a PHC string.
    ///
    /// # Errors
    /// If too many are waiting, or the operating system provides no randomness.
    pub(super) async fn hash(&self, password: Password) -> Result<String, NotHashed> {
        self.when_free(move |memory| hash(&password, memory)).await
    }

    /// Whether the password matches the hash. Without a hash it takes as long and returns false.
    ///
    /// # Errors
    /// If too many are waiting, or the hash cannot be parsed.
    pub(super) async fn matches(
        &self,
        password: Password,
        stored: Option<String>,
    ) -> Result<bool, NotHashed> {
        self.when_free(move |memory| match stored {
            Some(stored) => matches(&password, &stored, memory),
            None => hash(&password, memory).map(|_| false),
        })
        .await
    }

    async fn when_free<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Memory) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, NotHashed> {
        let waiting = self.waiting.try_acquire().map_err(|_| NotHashed::Busy)?;
        let turn = tokio::time::timeout(WAIT_TIMEOUT, Arc::clone(&self.turns).acquire_owned());
        let Ok(Ok(turn)) = turn.await else {
            return Err(NotHashed::Busy);
        };
        drop(waiting);
        // The permit moves into the task: a caller that disconnects does not stop the work, and must not free
        // its slot.
        let memories = Arc::clone(&self.memories);
        let work = tokio::task::spawn_blocking(move || {
            let stored = || memories.lock().unwrap_or_else(PoisonError::into_inner);
            let mut memory = stored().pop().unwrap_or_default();
            let done = work(&mut memory);
            stored().push(memory);
            drop(turn);
            done
        });
        let done = work
            .await
            .map_err(|error| NotHashed::Failed(error.into()))?;
        done.map_err(NotHashed::Failed)
    }
}

fn hash(password: &Password, memory: &mut Memory) -> anyhow::Result<String> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None)
        .map_err(|error| anyhow!("argon2's parameters: {error}"))?;
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|error| anyhow!("draw a salt: {error}"))?;
    let output = compute(password, &salt, params, memory)?;
    // PHC strings have their own base64.
    let salt = Salt::new(&salt).map_err(|error| anyhow!("write a salt: {error}"))?;
    let output = Output::new(&output).map_err(|error| anyhow!("write a hash: {error}"))?;
    Ok(format!(
        "$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${output}"
    ))
}

fn matches(password: &Password, stored: &str, memory: &mut Memory) -> anyhow::Result<bool> {
    // The parser's message could contain parts of the hash.
    let none = || anyhow!("the hash stored is none of argon2id's");
    let stored = PasswordHash::new(stored).map_err(|_| none())?;
    let (Some(salt), Some(expected)) = (&stored.salt, &stored.hash) else {
        return Err(none());
    };
    if stored.algorithm.as_str() != "argon2id" {
        return Err(none());
    }
    let params = Params::try_from(&stored).map_err(|_| none())?;
    let output = compute(password, salt, params, memory)?;
    Ok(output.ct_eq(expected.as_bytes()).into())
}

fn compute(
    password: &Password,
    salt: &[u8],
    params: Params,
    memory: &mut Memory,
) -> anyhow::Result<Vec<u8>> {
    memory.resize(params.block_count().max(memory.len()), Block::new());
    let mut output = vec![0; params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN)];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(password.0.as_bytes(), salt, &mut output, memory)
        .map_err(|error| anyhow!("hash a password: {error}"))?;
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_is_salted_and_matches_its_password_alone() {
        let hashing = Hashing::default();
        let right = Password::choose("correct horse", "ada").unwrap();
        let wrong = Password::attempt("correct house").unwrap();
        let one = hashing.hash(right.clone()).await.unwrap();
        let two = hashing.hash(right.clone()).await.unwrap();
        assert!(one.starts_with("$argon2id$v=19$m=12288,t=3,p=1$"), "{one}");
        assert_ne!(one, two);
        for (row, password, stored, same) in [
            ("right", &right, Some(one.clone()), true),
            ("wrong", &wrong, Some(one), false),
            ("no account", &right, None, false),
        ] {
            let matches = hashing.matches(password.clone(), stored).await.unwrap();
            assert_eq!(matches, same, "{row}");
        }
        let broken = hashing.matches(right.clone(), Some("$argon2id$x".into()));
        assert!(matches!(broken.await, Err(NotHashed::Failed(_))));
        // A hash that the library wrote with other parameters.
        let elsewhere = argon2::PasswordHasher::hash_password(&Argon2::default(), b"correct horse");
        let elsewhere = elsewhere.unwrap().to_string();
        let read = hashing.matches(right.clone(), Some(elsewhere));
        assert!(read.await.unwrap());
        assert_eq!(hashing.memories.lock().unwrap().len(), 1, "used again");
        assert!(!format!("{right:?}").contains("horse"));
    }

    #[test]
    fn new_passwords_are_validated() {
        let long = "ab".repeat(101);
        for (text, part) in [
            ("short", "shorter than 10"),
            (&*long, "longer than 200"),
            ("aaaaaaaaaaaa", "over and over"),
            ("xxADA@example.orgxx", "little more than the login"),
        ] {
            let fault = Password::choose(text, "ada@example.org").unwrap_err();
            assert!(fault.contains(part), "{fault}");
        }
        Password::choose("åäö åäö åä", "ada@example.org").unwrap();
        Password::choose("a granada from Málaga", "ada").unwrap();
    }

    #[tokio::test]
    async fn concurrent_hashes_are_limited_and_long_waits_refused() {
        let hashing = Hashing::default();
        let count = u32::try_from(MAX_CONCURRENT).unwrap();
        let turns = hashing.turns.acquire_many(count).await.unwrap();
        tokio::time::pause();
        let password = || Password::attempt("correct horse").unwrap();
        let answer = hashing.matches(password(), None).await;
        assert!(matches!(answer, Err(NotHashed::Busy)), "no turn in time");
        tokio::time::resume();
        drop(turns);
        let _queue = hashing
            .waiting
            .acquire_many(u32::try_from(MAX_WAITING).unwrap())
            .await
            .unwrap();
        let answer = hashing.hash(password()).await;
        assert!(matches!(answer, Err(NotHashed::Busy)), "no place to wait");
    }
    #[tokio::test]
    async fn a_disconnect_does_not_free_a_slot_in_use() {
        let hashing = Hashing::default();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let mut work = Box::pin(hashing.when_free(move |_| {
            let _ = wait.recv();
            Ok(())
        }));
        tokio::select! {
            biased;
            _ = &mut work => panic!("it must wait"),
            () = std::future::ready(()) => {}
        }
        drop(work);
        assert_eq!(hashing.turns.available_permits(), MAX_CONCURRENT - 1);
        drop(go);
        let all = hashing
            .turns
            .acquire_many(u32::try_from(MAX_CONCURRENT).unwrap());
        let all = tokio::time::timeout(Duration::from_secs(30), all).await;
        let _all = all.expect("it is free when the work is done").unwrap();
    }
}
