//! What may be restarted, how often, and on whose request.

use std::os::unix::fs::symlink;

use test_support::write_program;

use super::*;

const IMAGE: &str = "image = \"shop\"\n[services.orders]\nhealth_url = \"http://127.0.0.1:1/\"\n\
    [services.web]\nunit = \"nginx.service\"\nhealth_url = \"http://127.0.0.1:2/\"\n";

struct Root {
    dir: tempfile::TempDir,
}

impl Root {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("agent.toml"), IMAGE).unwrap();
        fs::create_dir_all(dir.path().join("state")).unwrap();
        // A fake systemctl that records its arguments.
        let systemctl = dir.path().join("systemctl");
        let note = dir.path().join("calls");
        write_program(
            &systemctl,
            &format!("#!/bin/sh\necho \"$@\" >> {}\n", note.display()),
        );
        Self { dir }
    }

    fn sources(&self) -> Sources {
        Sources {
            file: self.dir.path().join("agent.toml"),
            drop_ins: self.dir.path().join("agent.d"),
        }
    }

    fn carry_out(&self) -> Result<()> {
        let dir = self.dir.path();
        carry_out(
            &self.sources(),
            &dir.join("run"),
            &dir.join("state"),
            &dir.join("systemctl"),
        )
    }

    fn reported(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn request(&self, unit: &str) {
        request(&self.dir.path().join("run"), unit).unwrap();
    }
}

#[test]
fn a_service_of_the_image_is_restarted_once_by_one_request() {
    let root = Root::new();
    root.carry_out().unwrap();
    root.request("orders.service");
    root.carry_out().unwrap();
    root.carry_out().unwrap();
    assert_eq!(
        root.reported(),
        [
            "reset-failed -- orders.service",
            "restart --no-block -- orders.service"
        ]
    );
}

#[test]
fn what_the_image_does_not_list_is_never_touched() {
    let root = Root::new();
    // An attacker who controls the daemon may put anything there.
    root.request("sshd.service");
    let requests = root.dir.path().join("run").join(REQUESTS);
    for name in ["-H.service", "orders.target", "nginx", "x y.service"] {
        fs::write(requests.join(name), "").unwrap();
    }
    symlink("/etc/passwd", requests.join("cron.service")).unwrap();
    root.carry_out().unwrap();
    assert!(root.reported().is_empty(), "{:?}", root.reported());
    assert_eq!(
        fs::read_dir(root.dir.path().join("state")).unwrap().count(),
        0,
        "nothing is remembered of names that are not ours"
    );
    root.request("nginx.service");
    root.carry_out().unwrap();
    assert_eq!(root.reported().len(), 2);
    assert!(request(&requests, "../x.service").is_err());
}

#[test]
fn a_restart_is_not_repeated_too_soon_nor_too_often_nor_late() {
    let unit = "orders.service";
    let allowed = BTreeSet::from([unit.to_owned()]);
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let mut history = RestartHistory::default();
    let mut restarted = Vec::new();
    for second in (0..7200).step_by(30) {
        if consider(unit, at(second), &allowed, &history, at(second)) == Decision::Restart {
            restarted.push(second);
            history = history.with_request(at(second), Some(at(second)));
        }
    }
    assert_eq!(restarted[..7], [0, 60, 120, 180, 240, 300, 3600]);
    assert_eq!(restarted.len(), 12, "six an hour");
    let fresh = RestartHistory::default();
    for (asked, now, decision) in [
        (0, 120, true),
        (0, 121, false),
        // The clock was set back since.
        (500, 0, true),
    ] {
        let decided = consider(unit, at(asked), &allowed, &fresh, at(now));
        assert_eq!(decided == Decision::Restart, decision, "{asked} {now}");
    }
    let ahead = RestartHistory::default().with_request(at(0), Some(at(9_999)));
    assert_eq!(
        consider(unit, at(1), &allowed, &ahead, at(1)),
        Decision::Restart,
        "a clock that was set back must not refuse requests forever"
    );
}

#[test]
fn a_failing_systemctl_is_reported_and_the_request_consumed() {
    let root = Root::new();
    let systemctl = root.dir.path().join("systemctl");
    write_program(&systemctl, "#!/bin/sh\necho no such unit >&2\nexit 5\n");
    root.request("orders.service");
    let error = root.carry_out().unwrap_err().to_string();
    assert_eq!(error, "cannot restart orders.service: no such unit");
    root.carry_out().unwrap();
}
