//! What the account service returns, and what it does not reveal.

use std::sync::atomic::Ordering;

use super::*;
use crate::accounts::memory::MemoryAccounts;

const PASSWORD: &str = "correct horse";

fn account_service() -> (Arc<MemoryAccounts>, AccountService) {
    let accounts = Arc::new(MemoryAccounts::default());
    (Arc::clone(&accounts), AccountService::new(accounts))
}

#[tokio::test]
async fn a_customer_registers_logs_in_and_logs_out() {
    let (memory, service) = account_service();
    let first = service
        .register(" Ada@Example.org ", PASSWORD, &Origin::default())
        .await
        .unwrap();
    assert_eq!(first.login, "ada@example.org");
    let hours = first.expires_at.duration_since(Timestamp::now()).as_hours();
    assert!((14 * 24 - 1..=14 * 24).contains(&hours), "{hours}");
    {
        let accounts = memory.accounts.lock().unwrap();
        assert!(accounts[0].password_hash.starts_with("$argon2id$"));
        let sessions = memory.sessions.lock().unwrap();
        let token = first.token.reveal().as_bytes();
        let in_clear = |kept: &[u8; 32]| token.windows(32).any(|part| part == kept);
        assert!(!sessions.keys().any(in_clear), "only its digest");
    }
    let again = service
        .log_in("ADA@example.org", PASSWORD, &Origin::default())
        .await
        .unwrap();
    assert_ne!(again.token, first.token);
    let id = service.session(&first.token).await.unwrap().unwrap();
    assert_eq!(service.session(&again.token).await.unwrap(), Some(id));
    assert_eq!(service.login(id).await.unwrap().unwrap(), "ada@example.org");
    service.log_out(&again.token).await.unwrap();
    assert_eq!(service.session(&again.token).await.unwrap(), None);
    assert_eq!(
        service.session(&first.token).await.unwrap(),
        Some(id),
        "one session only"
    );
    // The two log-ins are not an hour apart.
    tokio::task::yield_now().await;
    assert_eq!(memory.sweeps.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn every_error_of_a_login_and_password_is_named() {
    let (_, service) = account_service();
    let table: [(&str, &str, &[&str]); 9] = [
        (
            "ab",
            "short",
            &[
                "login must have 3 to 64 characters",
                "password is shorter than 10 characters",
            ],
        ),
        (
            "äda",
            PASSWORD,
            &["login may have letters from a to z, digits and @ . _ + - only"],
        ),
        (
            "a b c",
            PASSWORD,
            &["login may have letters from a to z, digits and @ . _ + - only"],
        ),
        ("ada", "", &["password is shorter than 10 characters"]),
        (
            "ada",
            "password12",
            &["password is one of those that guessers try first"],
        ),
        (
            "ada",
            "!P@ssw0rd123",
            &["password is one of those that guessers try first"],
        ),
        (
            "ada",
            "1234567890",
            &["password is one of those that guessers try first"],
        ),
        (
            "ada",
            "Qwertyuiop1",
            &["password is one of those that guessers try first"],
        ),
        (
            "adalovelace",
            "AdaLovelace1",
            &["password is little more than the login"],
        ),
    ];
    for (login, password, expected) in table {
        let Err(Refusal::Invalid(errors)) =
            service.register(login, password, &Origin::default()).await
        else {
            panic!("{login} {password} was taken");
        };
        let messages: Vec<String> = errors
            .iter()
            .map(|error| format!("{} {}", error.field, error.message))
            .collect();
        assert_eq!(messages, expected, "{login} {password}");
    }
}

#[tokio::test]
async fn responses_do_not_reveal_which_logins_exist() {
    let (_, service) = account_service();
    service
        .register("ada", PASSWORD, &Origin::default())
        .await
        .unwrap();
    let registered = service
        .register("ADA", "another horse", &Origin::default())
        .await;
    assert!(matches!(registered, Err(Refusal::Taken)));
    // The limits are the same for both.
    for n in 0..12 {
        for login in ["ada", "nobody"] {
            let answer = service
                .log_in(login, "wrong password", &Origin::default())
                .await
                .map(|_| ());
            match answer {
                Err(Refusal::WrongCredentials) => assert!(n < 10, "{login} {n}"),
                Err(Refusal::TooMany(_)) => assert!(n >= 10, "{login} {n}"),
                other => panic!("{login} {n}: {other:?}"),
            }
        }
    }
    // Past the limit even the right password is refused.
    assert!(matches!(
        service.log_in("ada", PASSWORD, &Origin::default()).await,
        Err(Refusal::TooMany(_))
    ));
}

#[tokio::test]
async fn successes_and_outages_do_not_count_as_attempts() {
    let (memory, service) = account_service();
    service
        .register("ada", PASSWORD, &Origin::default())
        .await
        .unwrap();
    memory.down.store(true, Ordering::Relaxed);
    for _ in 0..15 {
        let answer = service.log_in("ada", PASSWORD, &Origin::default()).await;
        assert!(matches!(answer, Err(Refusal::Unavailable(_))));
    }
    memory.down.store(false, Ordering::Relaxed);
    for _ in 0..15 {
        service
            .log_in("ada", PASSWORD, &Origin::default())
            .await
            .unwrap();
    }
    let long = "x".repeat(1_000_000);
    assert!(matches!(
        service.log_in("ada", &long, &Origin::default()).await,
        Err(Refusal::WrongCredentials)
    ));
    assert!(matches!(
        service.log_in(&long, PASSWORD, &Origin::default()).await,
        Err(Refusal::WrongCredentials)
    ));
}

/// While others guess a login from many addresses, its owner's device can log in, with the right password
/// only; a device of another account cannot.
#[tokio::test]
async fn a_known_device_is_not_limited_by_guessers() {
    let (_, service) = account_service();
    let at = |number: u8, device: Option<&DeviceToken>| Origin {
        caller: Some(std::net::IpAddr::from([10, 0, 0, number]).into()),
        device: device.cloned(),
    };
    let ada = service
        .register("ada", PASSWORD, &at(1, None))
        .await
        .unwrap();
    let bob = service
        .register("bob", PASSWORD, &at(1, None))
        .await
        .unwrap();
    let wrong = "wrong password";
    for number in 10..17 {
        for _ in 0..11 {
            let tried = service.log_in("ada", wrong, &at(number, None)).await;
            assert!(matches!(
                tried,
                Err(Refusal::WrongCredentials | Refusal::TooMany(_))
            ));
        }
    }
    for (row, device) in [
        ("none", None),
        ("of another account", Some(&bob.device)),
        ("unknown", Some(&DeviceToken::new().unwrap())),
    ] {
        let tried = service.log_in("ada", PASSWORD, &at(2, device)).await;
        assert!(matches!(tried, Err(Refusal::TooMany(_))), "{row}");
    }
    let known = at(2, Some(&ada.device));
    let again = service.log_in("ada", PASSWORD, &known).await.unwrap();
    assert_eq!(again.device, ada.device, "it stays the same");
    // It may not guess more often than others.
    for n in 0..12 {
        match service.log_in("ada", wrong, &known).await {
            Err(Refusal::WrongCredentials) => assert!(n < 10, "{n}"),
            Err(Refusal::TooMany(_)) => assert!(n >= 10, "{n}"),
            other => panic!("{n}: {other:?}"),
        }
    }
    // It is not a session.
    assert_eq!(SessionToken::parse(ada.device.reveal()), None);
}
