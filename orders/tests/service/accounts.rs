//! Accounts over real sockets: sessions by cookie and by token, ownership of orders, requests of other sites
//! and guessers.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::servers::{Kind, Server};
use crate::support::{ORDER, Service, orders};

const ADA: &str = r#"{"login":"Ada@example.org","password":"correct horse"}"#;

pub(crate) fn with_accounts(folder: &Path) -> Service {
    let store = format!("sqlite://{}/orders.db", folder.display());
    with_accounts_in(&store, |_| {})
}

/// A service with accounts in `store`; `reach` configures its command.
fn with_accounts_in(store: &str, reach: impl Fn(&mut Command)) -> Service {
    let mut command = orders();
    command
        .args(["--store", store])
        .env("ORDERS_ACCOUNTS", "true");
    reach(&mut command);
    let service = Service::spawn(command);
    service.wait_for("taking orders into");
    service
}

/// A response with its raw head.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    fn cookie(&self) -> &str {
        let line = |line: &&str| line.to_lowercase().starts_with("set-cookie: ");
        let line = self.head.lines().find(line);
        &line.unwrap_or_else(|| panic!("no cookie: {self:?}"))["set-cookie: ".len()..]
    }

    /// The cookie header that a browser sends back.
    fn session(&self) -> String {
        let pair = self.cookie().split(';').next().unwrap();
        format!("cookie: {pair}")
    }
}

fn ask(service: &Service, request: &str, headers: &[&str], body: &str) -> Answer {
    let mut stream = service.connect();
    let mut head = format!("{request} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n");
    for header in headers {
        head += &format!("{header}\r\n");
    }
    if !body.is_empty() {
        head += &format!(
            "content-type: application/json\r\ncontent-length: {}\r\n",
            body.len()
        );
    }
    write!(stream, "{head}\r\n{body}").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

fn register(service: &Service, login: &str) -> String {
    let body = json!({"login": login, "password": "correct horse"}).to_string();
    let answer = ask(service, "POST /account", &[], &body);
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.session()
}

fn place(service: &Service, headers: &[&str]) -> String {
    let answer = ask(service, "POST /order", headers, ORDER);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// Logs out the session of this header.
pub(crate) fn end_session(service: &Service, session: &str) {
    assert_eq!(ask(service, "DELETE /session", &[session], "").status, 204);
}

/// The same on every database, with no visible difference.
fn a_server_keeps_accounts(kind: Kind) {
    let server = Server::start(kind);
    let open = || {
        with_accounts_in(&server.url_at(server.port()), |command| {
            command
                .env("ORDERS_STORE_PASSWORD_FILE", server.password_file())
                .env("ORDERS_STORE_TLS", "off");
        })
    };
    histories_are_their_customers(&open());
    sessions_come_and_go(&open());
    outlive_the_process(open);
}

#[test]
fn mariadb_keeps_accounts() {
    a_server_keeps_accounts(Kind::MariaDb);
}

#[test]
fn postgresql_keeps_accounts() {
    a_server_keeps_accounts(Kind::Postgres);
}

#[test]
fn a_customers_history_is_private() {
    let folder = tempfile::tempdir().unwrap();
    histories_are_their_customers(&with_accounts(folder.path()));
}

fn histories_are_their_customers(service: &Service) {
    let (ada, bob) = (register(service, "ada"), register(service, "bob"));
    let mut hers: Vec<String> = (0..3).map(|_| place(service, &[&ada])).collect();
    let his = place(service, &[&bob]);
    let anonymous = place(service, &[]);
    // Ids of one millisecond are in no order.
    hers.sort();
    hers.reverse();

    let history = |session: &str, query: &str| {
        let answer = ask(
            service,
            &format!("GET /account/orders{query}"),
            &[session],
            "",
        );
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(
            answer
                .head
                .to_lowercase()
                .contains("cache-control: no-store")
        );
        assert!(!answer.body.contains("\"account\""), "{answer:?}");
        let answer = answer.json();
        let ids = answer["orders"].as_array().unwrap().iter();
        let ids: Vec<String> = ids
            .map(|order| order["id"].as_str().unwrap().to_owned())
            .collect();
        (ids, answer["next"].as_str().map(str::to_owned))
    };
    assert_eq!(history(&ada, ""), (hers.clone(), None), "newest first");
    assert_eq!(history(&bob, "").0, std::slice::from_ref(&his));
    let (page, next) = history(&ada, "?limit=2");
    assert_eq!(page, hers[..2]);
    let next = next.unwrap();
    assert_eq!(
        history(&ada, &format!("?limit=2&before={next}")),
        (hers[2..].to_vec(), None)
    );
    for query in [
        "limit=0",
        "limit=101",
        "limit=x",
        "before=x",
        "limit=1&limit=2",
    ] {
        let answer = ask(
            service,
            &format!("GET /account/orders?{query}"),
            &[&ada],
            "",
        );
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
    }
    assert_eq!(ask(service, "GET /account/orders", &[], "").status, 401);

    let seen =
        |id: &str, headers: &[&str]| ask(service, &format!("GET /order/{id}"), headers, "").status;
    assert_eq!(seen(&hers[0], &[&ada]), 200);
    assert_eq!(seen(&hers[0], &[&bob]), 404);
    assert_eq!(seen(&hers[0], &[]), 404);
    assert_eq!(
        seen(&anonymous, &[&bob]),
        200,
        "the id shows that it is there"
    );
}

#[test]
fn log_in_and_out_by_cookie_and_by_token() {
    let folder = tempfile::tempdir().unwrap();
    sessions_come_and_go(&with_accounts(folder.path()));
}

fn sessions_come_and_go(service: &Service) {
    let who = |headers: &[&str]| ask(service, "GET /session", headers, "").json()["login"].clone();
    assert_eq!(who(&[]), Value::Null);
    let registered = ask(service, "POST /account", &[], ADA);
    let cookie = registered.cookie().to_owned();
    for part in [
        "shop_session=",
        "; Path=/",
        "; Max-Age=1209600",
        "; HttpOnly",
        "; SameSite=Strict",
    ] {
        assert!(cookie.contains(part), "{part} is not in {cookie}");
    }
    assert!(!cookie.contains("Secure"), "plain HTTP would refuse it");
    assert!(
        !registered.body.contains("shop_session"),
        "scripts do not see the token"
    );
    assert_eq!(who(&[&registered.session()]), "ada@example.org");

    // Behind a balancer that terminates TLS.
    let tls = "x-forwarded-proto: https";
    let secure = ask(service, "POST /session", &[tls], ADA);
    assert_eq!(secure.status, 200);
    assert!(
        secure.cookie().starts_with("__Host-shop_session="),
        "{secure:?}"
    );
    assert!(secure.cookie().ends_with("; Secure"), "{secure:?}");
    assert_eq!(who(&[tls, &secure.session()]), "ada@example.org");
    let tossed = registered.session();
    assert_eq!(
        who(&[tls, &tossed]),
        Value::Null,
        "any site on the same domain can set that one"
    );

    // A program's session.
    let with_bearer = ADA.replace('}', r#","bearer":true}"#);
    let program = ask(service, "POST /session", &[], &with_bearer);
    assert!(
        !program.head.to_lowercase().contains("set-cookie"),
        "{program:?}"
    );
    let token = program.json()["token"].as_str().unwrap().to_owned();
    let bearer = format!("authorization: Bearer {token}");
    assert_eq!(who(&[&bearer]), "ada@example.org");
    place(service, &[&bearer]);

    // Log out by the cookie; the other sessions stay.
    let session = registered.session();
    let logged_out = ask(service, "DELETE /session", &[&session], "");
    assert_eq!(logged_out.status, 204);
    assert!(
        logged_out
            .cookie()
            .contains("shop_session=; Path=/; Max-Age=0"),
        "{logged_out:?}"
    );
    let stale = ask(service, "GET /session", &[&session], "");
    assert_eq!(stale.json()["login"], Value::Null);
    assert!(
        stale.cookie().contains("Max-Age=0"),
        "the browser forgets it"
    );
    assert_eq!(who(&[&bearer]), "ada@example.org");
    // Not treated as anonymous, which would lose the order from the history.
    let order = ask(service, "POST /order", &[&session], ORDER);
    assert_eq!(order.status, 401, "{order:?}");
    assert!(
        order
            .head
            .to_lowercase()
            .contains("www-authenticate: bearer")
    );
    assert_eq!(
        ask(service, "DELETE /session", &[], "").status,
        204,
        "already logged out"
    );
}

#[test]
fn sessions_outlive_the_process() {
    let folder = tempfile::tempdir().unwrap();
    outlive_the_process(|| with_accounts(folder.path()));
}

fn outlive_the_process(open: impl Fn() -> Service) {
    let mut service = open();
    let eve = register(&service, "eve");
    let id = place(&service, &[&eve]);
    service.signal("KILL");
    service.ended();
    let service = open();
    let answer = ask(&service, "GET /account/orders", &[&eve], "");
    assert_eq!(answer.json()["orders"][0]["id"], id.as_str());
}

#[test]
fn every_invalid_request_is_refused_without_details() {
    let folder = tempfile::tempdir().unwrap();
    let service = with_accounts(folder.path());
    let ada = register(&service, "ada@example.org");
    let wrong = ADA.replace("horse", "house");
    let unknown = wrong.replace("Ada", "Eve");
    let taken = ADA.replace("horse", "other horse");
    const WRONG: &str = "the login or the password is wrong";
    const PLACE: &str = "POST /order";
    const HERE: &str = "sec-fetch-site: same-origin";
    let other_site = "sec-fetch-site: cross-site";
    let same_site = "sec-fetch-site: same-site";
    let (log_in, register) = ("POST /session", "POST /account");
    let (evil, no_origin) = (["origin: https://evil"], ["origin: null"]);
    let other_port = [&*ada, "origin: http://shop:81"];
    let (own_page, own_origin) = ([&*ada, HERE], [&*ada, "origin: http://shop"]);
    let text = ["content-type: text/plain"];
    let guess = r#"{"login":"é","password":"x"}"#;
    let short = r#"{"login":"x","password":"y"}"#;
    let cut = r#"{"login":"eve","password":"#;
    let alone = r#"{"login":"eve"}"#;
    let nested = r#"{"login":"eve","password":{"hush":1}}"#;
    let twice = r#"{"login":"eve","login":"bob","password":"hush hush hush"}"#;
    let admin = r#"{"login":"eve","password":"hush hush hush","admin":true}"#;
    // Columns: request, headers, body; status, a part of the response.
    type Row<'a> = (&'a str, &'a [&'a str], &'a str, u16, &'a str);
    let table: [Row<'_>; 20] = [
        (log_in, &[], &wrong, 401, WRONG),
        (log_in, &[], &unknown, 401, WRONG),
        (log_in, &[], guess, 401, WRONG),
        (register, &[], &taken, 409, "this login is taken"),
        (register, &[], short, 422, r#""field":"password""#),
        (register, &[], cut, 400, "not JSON"),
        (register, &[], alone, 422, "login and password"),
        (register, &[], nested, 422, "login and password"),
        (register, &[], twice, 422, "login and password"),
        (register, &[], admin, 422, "login and password"),
        (register, &text, "", 415, "send application/json"),
        ("PUT /session", &[], "", 405, "PUT is not allowed"),
        // Other sites: forms that log a user in as someone else, orders in the user's name.
        (log_in, &[other_site], ADA, 403, "another site"),
        (log_in, &[same_site], ADA, 403, "another site"),
        (log_in, &evil, ADA, 403, "another site"),
        (log_in, &no_origin, ADA, 403, "another site"),
        (PLACE, &[&ada, other_site], ORDER, 403, "another site"),
        ("DELETE /session", &other_port, "", 403, "another site"),
        (PLACE, &own_page, ORDER, 200, "Order received"),
        (PLACE, &own_origin, ORDER, 200, "Order received"),
    ];
    for (request, headers, body, status, part) in table {
        let answer = ask(&service, request, headers, body);
        let asked = format!("{request} {headers:?} {body}: {answer:?}");
        assert_eq!(answer.status, status, "{asked}");
        assert!(answer.body.contains(part), "{asked} has no {part}");
        for secret in ["hush", "horse", "house"] {
            assert!(!answer.body.contains(secret), "{asked}");
        }
    }
    // Garbage instead of a session.
    for session in [
        "cookie: shop_session=x",
        "authorization: Bearer shop_session_x",
    ] {
        assert_eq!(
            ask(&service, "POST /order", &[session], ORDER).status,
            401,
            "{session}"
        );
    }
    // Other kinds of tokens are ignored.
    let other = ["authorization: Bearer operator"];
    assert_eq!(ask(&service, "POST /order", &other, ORDER).status, 200);
}

#[test]
fn guessers_are_slowed_down_and_passwords_not_logged() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = with_accounts(folder.path());
    register(&service, "ada@example.org");
    let wrong = ADA.replace("horse", "geheimnis");
    let statuses: Vec<u16> = (0..11)
        .map(|_| ask(&service, "POST /session", &[], &wrong).status)
        .collect();
    assert_eq!(statuses[..10], [401; 10]);
    // A minute may have passed on a slow machine; two have not.
    let answers: Vec<Answer> = (0..3)
        .map(|_| ask(&service, "POST /session", &[], ADA))
        .collect();
    let refused = answers.iter().find(|answer| answer.status == 429).unwrap();
    let head = refused.head.to_lowercase();
    let wait = head.split("retry-after: ").nth(1).unwrap();
    let wait: u64 = wait.lines().next().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    service.signal("TERM");
    loop {
        let line = service.wait_for("").to_string();
        for secret in ["geheimnis", "ada@example", "shop_session"] {
            assert!(!line.to_lowercase().contains(secret), "{line}");
        }
        if line.contains("stopped; every request") {
            break;
        }
    }
    service.ended();
    // Neither passwords nor tokens are stored.
    let files = std::fs::read_dir(folder.path()).unwrap();
    let kept: Vec<u8> = files
        .flat_map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .collect();
    let kept = String::from_utf8_lossy(&kept);
    assert!(kept.contains("$argon2id$"), "the folder has the store");
    assert!(!kept.contains("shop_session_") && !kept.contains("correct horse"));
}

#[test]
fn without_the_setting_there_are_no_accounts() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    for request in [
        "POST /account",
        "POST /session",
        "GET /session",
        "GET /account/orders",
    ] {
        let answer = ask(&service, request, &[], "");
        assert_eq!(answer.status, 404, "{request}: {answer:?}");
    }
    assert_eq!(place(&service, &["cookie: shop_session=x"]).len(), 36);
}
