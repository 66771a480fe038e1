//! The shop page in a browser: by mouse and keyboard, on a phone, in dark mode, without scripts.

use std::time::{Duration, Instant};

use fantoccini::Locator;
use fantoccini::cookies::Cookie;
use fantoccini::key::Key;
use serde_json::{Value, json};

use crate::accounts::{end_session, with_accounts};
use crate::browser::{Browser, with_browser};
use crate::support::{Service, TEST_TIMEOUT, kept, orders};

/// Opens the page and waits until its script runs.
async fn visit(browser: &Browser, service: &Service) {
    let url = format!("http://{}/", service.address);
    browser.client.goto(&url).await.unwrap();
    browser
        .until("document.readyState === 'complete' && !document.querySelector('#thanks:not([hidden])')")
        .await;
}

async fn write(browser: &Browser, id: &str, text: &str) {
    let field = browser.client.find(Locator::Id(id)).await.unwrap();
    field.clear().await.unwrap();
    field.send_keys(text).await.unwrap();
}

async fn press(browser: &Browser, css: &str) {
    let button = browser.client.find(Locator::Css(css)).await.unwrap();
    button.click().await.unwrap();
}

async fn text(browser: &Browser, css: &str) -> String {
    let element = browser.client.find(Locator::Css(css)).await.unwrap();
    element.text().await.unwrap()
}

async fn fill(browser: &Browser) {
    write(browser, "name", "Åsa <b>Öberg</b>").await;
    write(browser, "address", "1 Rose Row\nGarden Town").await;
}

const DONE: &str = "!document.getElementById('thanks').hidden";

#[test]
fn an_order_is_placed_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    with_browser(async |browser| {
        visit(browser, &service).await;
        fill(browser).await;
        press(browser, "label.flower:nth-of-type(2)").await;
        press(browser, "#order button").await;
        browser.until(DONE).await;
        let id = text(browser, "#number").await;
        let order = service.order_by(&id, &text(browser, "#receipt").await);
        assert_eq!(order["name"], "Åsa <b>Öberg</b>");
        assert_eq!(order["address"], "1 Rose Row\nGarden Town");
        assert_eq!(order["flower"], "spring_tulips");
        let focus = browser.run("return document.activeElement.id").await;
        assert_eq!(focus, "thanks-title", "a screen reader announces it");

        // The look-up form already contains number and receipt.
        press(browser, "#lookup button").await;
        browser
            .until("!document.getElementById('found').hidden")
            .await;
        let found = text(browser, "#found").await;
        for part in [
            "Spring tulips",
            "Åsa <b>Öberg</b>",
            "1 Rose Row\nGarden Town",
        ] {
            assert!(found.contains(part), "{part} is not in {found}");
        }
        // The number alone shows that it exists; a wrong receipt is reported.
        write(browser, "secret", "").await;
        press(browser, "#lookup button").await;
        browser
            .until("document.getElementById('lookup-answer').innerText.includes('We have it')")
            .await;
        assert!(!text(browser, "#found").await.contains("berg"));
        write(browser, "secret", "shop_receipt_x").await;
        press(browser, "#lookup button").await;
        browser
            .until("document.getElementById('lookup-answer').innerText.includes('not the receipt')")
            .await;
        write(browser, "id", "unknown").await;
        press(browser, "#lookup button").await;
        browser
            .until("document.getElementById('lookup-answer').innerText.includes('no order with this number')")
            .await;

        press(browser, "#another").await;
        press(browser, "#order button").await;
        browser.until(DONE).await;
        assert_ne!(text(browser, "#number").await, id, "another order");
        let complaints = browser.complaints().await;
        assert!(
            complaints
                .iter()
                .all(|printed| printed.contains("404") || printed.contains("403")),
            "{complaints:?}"
        );
    });
}

/// User input is served as HTML, the type that the candidates' clients expect: a browser must treat it as
/// data.
#[test]
fn markup_in_a_candidates_name_runs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = orders();
    command
        .args(["--store", &format!("file://{}", folder.path().display())])
        .env("ORDERS_CANDIDATES", "embedded");
    let service = Service::spawn(command);
    service.wait_for("taking orders into");
    let name = "/candidate/%3Cimg%20src=shop.svg%20onload=document.title='ran'%20\
                onerror=document.title='ran'%3E%3Csvg%20onload=document.title='ran'%3E";
    assert_eq!(service.ask("POST", name, "", b"").status, 200);
    with_browser(async |browser| {
        for path in ["/candidates", name] {
            let url = format!("http://{}{path}", service.address);
            browser.client.goto(&url).await.unwrap();
            browser.until("document.readyState === 'complete'").await;
            let state = "return [document.title, document.images.length, window.origin]";
            assert_eq!(browser.run(state).await, json!(["", 1, "null"]), "{path}");
        }
    });
}

#[test]
fn errors_are_shown_at_their_fields_and_input_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Service::start(folder.path());
    with_browser(async |browser| {
        visit(browser, &service).await;
        fill(browser).await;
        write(browser, "name", "   ").await;
        press(browser, "#order button").await;
        browser
            .until("document.getElementById('name-fault').innerText === 'This is empty.'")
            .await;
        let state = browser
            .run(
                "const name = document.getElementById('name'); return [document.activeElement === name, \
                 name.getAttribute('aria-invalid'), document.getElementById('address').value]",
            )
            .await;
        assert_eq!(state, json!([true, "true", "1 Rose Row\nGarden Town"]));
        assert!(text(browser, "#order-answer").await.contains("Not ordered"));

        // The service stops: the page retries, then reports it and keeps the input.
        service.signal("KILL");
        service.ended();
        write(browser, "name", "Ada").await;
        // Recorded in the page: polling from outside could miss a text that is shown for a second.
        browser
            .run(
                "window.printed = ''; const answer = document.getElementById('order-answer'); \
                 new MutationObserver(() => { window.printed += answer.textContent; }) \
                 .observe(answer, {childList: true, characterData: true, subtree: true})",
            )
            .await;
        press(browser, "#order button").await;
        browser
            .until("document.getElementById('order-answer').innerText.includes('does not answer')")
            .await;
        browser
            .until("window.printed.includes('Trying again')")
            .await;
        assert!(
            text(browser, "#order-answer")
                .await
                .contains("may have your order already"),
            "the outcome is unknown"
        );
        let name = browser
            .run("return document.getElementById('name').value")
            .await;
        assert_eq!(name, "Ada");
    });
    assert_eq!(kept(folder.path()), Vec::<String>::new());
}

/// Sends every request to `order` but drops the first `lost` responses; records the keys.
fn losing(lost: u32) -> String {
    format!(
        "window.keys = []; const send = window.fetch; window.fetch = async (path, options) => {{\
           const answer = await send(path, options);\
           if (path !== 'order') return answer;\
           window.keys.push(options.headers['idempotency-key']);\
           if (window.keys.length <= {lost}) throw new TypeError('lost');\
           return answer; }}"
    )
}

#[test]
fn double_clicks_and_retries_use_one_key() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Service::start(folder.path());
    with_browser(async |browser| {
        visit(browser, &service).await;
        fill(browser).await;
        browser.run(&losing(0)).await;
        browser
            .run("const button = document.querySelector('#order button'); button.click(); button.click()")
            .await;
        browser.until(DONE).await;
        let keys = browser.run("return window.keys.length").await;
        assert_eq!(keys, 1, "a double click is one order");

        visit(browser, &service).await;
        fill(browser).await;
        // The page tries four times by itself, and once more when the customer presses the button.
        browser.run(&losing(4)).await;
        press(browser, "#order button").await;
        browser
            .until("document.getElementById('order-answer').innerText.includes('does not answer')")
            .await;
        press(browser, "#order button").await;
        browser.until(DONE).await;
        let keys = browser.run("return window.keys").await;
        let keys = keys.as_array().unwrap();
        assert_eq!(keys.len(), 5);
        assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
        assert_eq!(keys[0].as_str().unwrap().len(), 32);
        // After a response the next order is a new one.
        press(browser, "#another").await;
        press(browser, "#order button").await;
        browser.until(DONE).await;
        let keys = browser.run("return window.keys").await;
        assert_ne!(keys[5], keys[0]);
    });
    service.signal("TERM");
    service.ended();
    // A double click; five attempts with one key; one with a new key.
    assert_eq!(kept(folder.path()).len(), 3);
}

#[test]
fn the_page_works_by_keyboard_and_without_scripts() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Service::start(folder.path());
    with_browser(async |browser| {
        visit(browser, &service).await;
        let mut order = Vec::new();
        for keys in [
            format!("{}{}", char::from(Key::Tab), char::from(Key::Down)),
            format!("{}Ada", char::from(Key::Tab)),
            format!("{}1 Rose Row", char::from(Key::Tab)),
            char::from(Key::Tab).to_string(),
        ] {
            let focus = browser.client.active_element().await.unwrap();
            focus.send_keys(&keys).await.unwrap();
            let at = browser
                .run("const at = document.activeElement; return [at.name || at.innerText, at.matches(':focus-visible')]")
                .await;
            order.push(at);
        }
        assert_eq!(
            json!(order),
            json!([
                ["flower", true],
                ["name", true],
                ["address", true],
                ["Place the order", true]
            ])
        );
        let focus = browser.client.active_element().await.unwrap();
        focus
            .send_keys(&char::from(Key::Enter).to_string())
            .await
            .unwrap();
        browser.until(DONE).await;
        let id = text(browser, "#number").await;
        let placed = service.order_by(&id, &text(browser, "#receipt").await);
        assert_eq!(
            placed["flower"], "spring_tulips",
            "the arrow chose the second"
        );

        browser
            .devtools(
                "Emulation.setScriptExecutionDisabled",
                json!({"value": true}),
            )
            .await;
        let url = format!("http://{}/", service.address);
        browser.client.goto(&url).await.unwrap();
        let lookup = browser.client.find(Locator::Id("lookup")).await.unwrap();
        let shown = lookup.is_displayed().await.unwrap();
        assert!(!shown, "what needs the script is not there");
        fill(browser).await;
        press(browser, "#order button").await;
        // Without scripts the driver does not wait for the form's page, and elements of the old page may be
        // stale.
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            let body = browser.client.find(Locator::Css("body")).await;
            let answer = match body {
                Ok(body) => body.text().await,
                Err(error) => Err(error),
            };
            if matches!(&answer, Ok(answer) if answer.contains("Order received")) {
                break;
            }
            assert!(Instant::now() < deadline, "{answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    service.signal("TERM");
    service.ended();
    assert_eq!(kept(folder.path()).len(), 2);
}

/// Lists accessibility problems: contrast by WCAG 2.2 (1.4.3), target sizes (2.5.8), reflow (1.4.10).
const CHECK: &str = include_str!("accessibility.js");

#[test]
fn the_page_is_accessible_in_every_size_and_theme() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    with_browser(async |browser| {
        for (width, height, scheme) in [
            (320, 640, "light"),
            (375, 960, "light"),
            (375, 960, "dark"),
            (800, 1200, "light"),
            (1280, 1040, "light"),
            (1280, 1040, "dark"),
        ] {
            browser.set_window(width, height, scheme).await;
            visit(browser, &service).await;
            if (width, scheme) == (1280, "light") {
                picture(browser, "shop-desktop").await;
            };
            let named = names(browser).await;
            assert!(
                named.iter().any(|name| name == "radio Romantic roses"),
                "{named:?}"
            );
            assert!(
                named.iter().any(|name| name == "textbox Delivery address"),
                "{named:?}"
            );
            for state in ["empty", "faults", "thanks"] {
                match state {
                    "faults" => {
                        fill(browser).await;
                        write(browser, "name", " ").await;
                        press(browser, "#order button").await;
                        browser
                            .until("document.getElementById('name-fault').innerText")
                            .await;
                    }
                    "thanks" => {
                        write(browser, "name", "Åsa").await;
                        press(browser, "#order button").await;
                        browser.until(DONE).await;
                        press(browser, "#lookup button").await;
                        browser
                            .until("!document.getElementById('found').hidden")
                            .await;
                        if (width, scheme) == (375, "dark") {
                            picture(browser, "shop-phone").await;
                        }
                    }
                    _ => {}
                }
                let stumbles = browser.run(CHECK).await;
                assert_eq!(stumbles, json!([]), "{width} {scheme} {state}");
            }
        }
    });
}

#[test]
fn a_customer_registers_orders_and_sees_the_history() {
    let folder = tempfile::tempdir().unwrap();
    let service = with_accounts(folder.path());
    let shown = |css: &str| format!("document.querySelector('{css}').checkVisibility()");
    let shows = |text: &str| {
        format!("document.getElementById('account-answer').innerText.includes('{text}')")
    };
    with_browser(async |browser| {
        browser.set_window(375, 1900, "dark").await;
        visit(browser, &service).await;
        assert_eq!(browser.run(CHECK).await, json!([]), "before logging in");
        write(browser, "login", "ada").await;
        write(browser, "password", "short").await;
        press(browser, "#account button[value=register]").await;
        browser
            .until(
                "document.getElementById('password-fault').innerText.includes('shorter than 10')",
            )
            .await;
        write(browser, "password", "correct horse").await;
        press(browser, "#account button").await;
        browser
            .until(&shows("The login or the password is wrong."))
            .await;
        write(browser, "password", "correct horse").await;
        press(browser, "#account button[value=register]").await;
        browser.until(&shown("#inside")).await;
        assert_eq!(text(browser, "#who").await, "ada");

        for _ in 0..2 {
            fill(browser).await;
            press(browser, "#order button").await;
            browser.until(DONE).await;
            press(browser, "#another").await;
        }
        browser
            .until("document.querySelectorAll('#history li').length === 2")
            .await;
        browser.set_window(1280, 1250, "light").await;
        // The cookie is stored, and scripts cannot read it.
        visit(browser, &service).await;
        browser
            .until("document.querySelectorAll('#history li').length === 2")
            .await;
        assert_eq!(browser.run("return document.cookie").await, "");
        press(browser, "#history button").await;
        browser.until(&shown("#found")).await;
        assert_eq!(browser.run(CHECK).await, json!([]), "logged in");
        names(browser).await;
        picture(browser, "shop-account").await;
        let id = browser
            .run("return document.getElementById('id').value")
            .await;
        let id = id.as_str().unwrap().to_owned();

        // After logging out nothing of it is visible.
        press(browser, "#out button:not([type])").await;
        browser.until(&shown("#account")).await;
        let left = browser
            .run("return [document.getElementById('found').innerText, document.querySelectorAll('#history li').length]")
            .await;
        assert_eq!(left, json!(["", 0]));
        write(browser, "id", &id).await;
        press(browser, "#lookup button").await;
        browser
            .until("document.getElementById('lookup-answer').innerText.includes('no order with this number')")
            .await;

        // Log in again; then the session ends elsewhere.
        write(browser, "login", "Ada").await;
        write(browser, "password", "correct horse").await;
        press(browser, "#account button").await;
        browser
            .until("document.querySelectorAll('#history li').length === 2")
            .await;
        let cookies = browser.client.get_all_cookies().await.unwrap();
        let its = |cookie: &&Cookie<'static>| cookie.name() == "shop_session";
        let session = cookies.iter().find(its).unwrap();
        let session = format!("cookie: {}={}", session.name(), session.value());
        end_session(&service, &session);
        fill(browser).await;
        press(browser, "#order button").await;
        browser
            .until("document.getElementById('order-answer').innerText.includes('your session has ended')")
            .await;
        browser.until(&shown("#account")).await;
        // Anonymous, with the form unchanged; the browser has deleted the cookie.
        let deadline = std::time::Instant::now() + crate::support::TEST_TIMEOUT;
        loop {
            let cookies = browser.client.get_all_cookies().await.unwrap();
            if !cookies.iter().any(|cookie| its(&cookie)) {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "the cookie stays");
        }
        press(browser, "#order button").await;
        browser.until(DONE).await;
    });
}

/// Role and name of every focusable element in the browser's accessibility tree.
async fn names(browser: &Browser) -> Vec<String> {
    let tree = browser
        .devtools("Accessibility.getFullAXTree", json!({}))
        .await;
    let nodes = tree["nodes"].as_array().unwrap();
    let takes_focus = |node: &&Value| {
        let properties = node["properties"].as_array();
        let focusable = |p: &Value| p["name"] == "focusable" && p["value"]["value"] == true;
        properties.is_some_and(|all| all.iter().any(focusable))
            && node["role"]["value"] != "RootWebArea"
    };
    let named = nodes.iter().filter(takes_focus).map(|node| {
        let name = node["name"]["value"].as_str().unwrap_or_default();
        assert!(!name.is_empty(), "no accessible name: {node:#}");
        format!(
            "{} {name}",
            node["role"]["value"].as_str().unwrap_or_default()
        )
    });
    named.collect()
}

/// Saves a screenshot to the folder `SHOP_PICTURES`, for the documentation.
async fn picture(browser: &Browser, name: &str) {
    let Some(folder) = std::env::var_os("SHOP_PICTURES") else {
        return;
    };
    browser.run("scrollTo(0, 0)").await;
    let png = browser.client.screenshot().await.unwrap();
    std::fs::write(
        std::path::Path::new(&folder).join(format!("{name}.png")),
        png,
    )
    .unwrap();
}
