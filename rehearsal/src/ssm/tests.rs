//! Parameter Store's rules as tables.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::put::VALIDATION;
use super::{Images, State, handle, tick};
use crate::ids::ImageId;
use crate::request::RequestContext;
use crate::wire::ApiError;

/// Images that are available.
#[derive(Default)]
struct Shelf(BTreeSet<String>);

impl Images for Shelf {
    fn is_available(&self, id: &ImageId) -> bool {
        self.0.contains(id.as_str())
    }

    fn newest_of_debian(&self, stem: &str) -> Option<(ImageId, Timestamp)> {
        let made = "2026-01-01T00:00:00Z".parse().unwrap();
        (stem == "debian-12-amd64-").then(|| (ImageId::from("ami-0debian"), made))
    }
}

struct Bench {
    state: State,
    shelf: Shelf,
    now: Timestamp,
}

impl Bench {
    fn new() -> Self {
        Self {
            state: State::default(),
            shelf: Shelf::default(),
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
        }
    }

    fn call(&mut self, action: &str, body: &Value) -> Result<Value, ApiError> {
        let ctx = RequestContext { now: self.now };
        handle(&mut self.state, &self.shelf, &ctx, action, body)
    }

    fn ok(&mut self, action: &str, body: Value) -> Value {
        self.call(action, &body).unwrap()
    }

    fn code(&mut self, action: &str, body: Value) -> String {
        self.call(action, &body).unwrap_err().code.into_owned()
    }

    fn put(&mut self, name: &str, value: &str) {
        self.ok(
            "PutParameter",
            json!({ "Name": name, "Value": value, "Type": "String", "Overwrite": true }),
        );
    }

    fn put_image(&mut self, name: &str, image: &str) -> Value {
        self.ok(
            "PutParameter",
            json!({ "Name": name, "Value": image, "Type": "String", "Overwrite": true, "DataType": "aws:ec2:image" }),
        )
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let answer = self.call("GetParameter", &json!({ "Name": name })).ok()?;
        Some(answer["Parameter"]["Value"].as_str().unwrap().to_owned())
    }

    fn names(&mut self, action: &str, body: Value) -> Vec<String> {
        let answer = self.ok(action, body);
        let all = answer["Parameters"].as_array().unwrap();
        all.iter()
            .map(|p| p["Name"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[test]
fn versions_count_up_and_are_kept() {
    let mut bench = Bench::new();
    for number in 1..=3 {
        let answer = bench.ok(
            "PutParameter",
            json!({ "Name": "/a", "Value": format!("v{number}"), "Type": "String", "Overwrite": true, "Description": "d" }),
        );
        assert_eq!(answer, json!({ "Version": number, "Tier": "Standard" }));
    }
    assert_eq!(bench.value("/a").as_deref(), Some("v3"));
    assert_eq!(bench.value("/a:2").as_deref(), Some("v2"));
    assert_eq!(
        bench.code("GetParameter", json!({ "Name": "/a:9" })),
        "ParameterVersionNotFound"
    );
    let history = bench.ok(
        "GetParameterHistory",
        json!({ "Name": "/a", "MaxResults": 2 }),
    );
    assert_eq!(history["Parameters"][0]["Value"], "v1");
    assert_eq!(history["Parameters"][0]["Description"], "d");
    assert_eq!(
        history["Parameters"][0]["LastModifiedDate"],
        1_767_225_600.0
    );
    let rest = bench.ok(
        "GetParameterHistory",
        json!({ "Name": "/a", "NextToken": history["NextToken"] }),
    );
    assert_eq!(rest["Parameters"][0]["Value"], "v3");
    for _ in 0..120 {
        bench.put("/a", "x");
    }
    let answer = bench.ok("GetParameter", json!({ "Name": "/a" }));
    assert_eq!(answer["Parameter"]["Version"], 123);
    assert_eq!(bench.value("/a:24").as_deref(), Some("x"));
    assert_eq!(bench.value("/a:23"), None);
}

#[test]
fn an_image_becomes_the_value_only_once_available() {
    let mut bench = Bench::new();
    let (good, bad) = ("ami-0123456789abcdef0", "ami-0000000000000bad0");
    bench.shelf.0.insert(good.to_owned());
    assert_eq!(bench.put_image("/current", good)["Version"], 1);
    assert_eq!(bench.value("/current"), None);
    bench.now += VALIDATION - SignedDuration::from_millis(1);
    assert_eq!(bench.value("/current"), None);
    bench.now += SignedDuration::from_millis(1);
    assert_eq!(bench.value("/current").as_deref(), Some(good));
    // One that is not there is accepted, and then dropped.
    assert_eq!(bench.put_image("/current", bad)["Version"], 2);
    bench.now += VALIDATION;
    tick(&mut bench.state, &bench.shelf, bench.now);
    assert_eq!(bench.value("/current").as_deref(), Some(good));
    // Its number is free again.
    assert_eq!(bench.put_image("/current", good)["Version"], 2);
    // The state of the image at the time of the check counts.
    bench.shelf.0.clear();
    bench.now += VALIDATION;
    let answer = bench.ok("GetParameter", json!({ "Name": "/current" }));
    assert_eq!(answer["Parameter"]["Version"], 1);
    assert_eq!(answer["Parameter"]["DataType"], "aws:ec2:image");
}

#[test]
fn invalid_input_is_refused() {
    let mut bench = Bench::new();
    bench.put("/there", "x");
    let put = |name: &str, value: &str| json!({ "Name": name, "Value": value, "Type": "String" });
    let with = |key: &str, value: Value| {
        let mut body = put("/new", "x");
        body[key] = value;
        body
    };
    let table = [
        ("SendCommand", json!({}), "UnknownOperationException"),
        (
            "PutParameter",
            json!({ "Value": "x" }),
            "SerializationException",
        ),
        ("PutParameter", put("/there", "y"), "ParameterAlreadyExists"),
        (
            "PutParameter",
            json!({ "Name": "/new", "Value": "x" }),
            "ValidationException",
        ),
        (
            "PutParameter",
            with("Type", json!("Text")),
            "ValidationException",
        ),
        (
            "PutParameter",
            with("Tier", json!("Huge")),
            "ValidationException",
        ),
        (
            "PutParameter",
            with("DataType", json!("aws:ec2:Image")),
            "ValidationException",
        ),
        (
            "PutParameter",
            with("DataType", json!("aws:ec2:image")),
            "ValidationException",
        ),
        (
            "PutParameter",
            with("Policies", json!("[{}]")),
            "ValidationException",
        ),
        (
            "PutParameter",
            with("AllowedPattern", json!(".*")),
            "ValidationException",
        ),
        (
            "PutParameter",
            with("KeyId", json!("alias/x")),
            "ValidationException",
        ),
        (
            "PutParameter",
            json!({ "Name": "/there", "Value": "x", "Type": "SecureString", "Overwrite": true }),
            "HierarchyTypeMismatchException",
        ),
        (
            "PutParameter",
            json!({ "Name": "/there", "Value": "x", "Overwrite": true, "Tags": [{ "Key": "k", "Value": "v" }] }),
            "ValidationException",
        ),
        ("PutParameter", put("/new", ""), "ValidationException"),
        (
            "PutParameter",
            put("/new", "{{ ssm:x }}"),
            "ValidationException",
        ),
        (
            "PutParameter",
            put("/new", &"x".repeat(4097)),
            "ValidationException",
        ),
        ("PutParameter", put("/aws/x", "x"), "AccessDeniedException"),
        ("PutParameter", put("awsx", "x"), "ValidationException"),
        ("PutParameter", put("a/b", "x"), "ValidationException"),
        ("PutParameter", put("/a b", "x"), "ValidationException"),
        (
            "PutParameter",
            put(&"/a".repeat(16), "x"),
            "HierarchyLevelLimitExceededException",
        ),
        (
            "GetParameter",
            json!({ "Name": "/no" }),
            "ParameterNotFound",
        ),
        (
            "GetParameters",
            json!({ "Names": [] }),
            "ValidationException",
        ),
        (
            "GetParameterHistory",
            json!({ "Name": "/no" }),
            "ParameterNotFound",
        ),
        (
            "DeleteParameter",
            json!({ "Name": "/no" }),
            "ParameterNotFound",
        ),
        (
            "GetParametersByPath",
            json!({ "Path": "no" }),
            "ValidationException",
        ),
        (
            "GetParametersByPath",
            json!({ "Path": "/", "MaxResults": 11 }),
            "ValidationException",
        ),
        (
            "GetParametersByPath",
            json!({ "Path": "/", "NextToken": "no" }),
            "InvalidNextToken",
        ),
        (
            "GetParametersByPath",
            json!({ "Path": "/", "ParameterFilters": [{ "Key": "Name", "Values": ["x"] }] }),
            "InvalidFilterKey",
        ),
        (
            "DescribeParameters",
            json!({ "ParameterFilters": [{ "Key": "Name", "Option": "Like", "Values": ["x"] }] }),
            "InvalidFilterOption",
        ),
        (
            "DescribeParameters",
            json!({ "ParameterFilters": [{ "Key": "Type" }] }),
            "InvalidFilterValue",
        ),
        (
            "ListTagsForResource",
            json!({ "ResourceType": "Document", "ResourceId": "/there" }),
            "InvalidResourceType",
        ),
        (
            "ListTagsForResource",
            json!({ "ResourceType": "Parameter", "ResourceId": "/no" }),
            "InvalidResourceId",
        ),
    ];
    for (action, body, code) in table {
        let shown = body.to_string();
        assert_eq!(bench.code(action, body), code, "{action} {shown}");
    }
    // The largest that still fits.
    bench.put("/large", &"x".repeat(4096));
    let advanced = json!({ "Name": "/larger", "Value": "x".repeat(4097), "Type": "String", "Tier": "Intelligent-Tiering" });
    assert_eq!(bench.ok("PutParameter", advanced)["Tier"], "Advanced");
}

#[test]
fn paths_and_filters_select() {
    let mut bench = Bench::new();
    for name in [
        "root",
        "/shop/current",
        "/shop/instances/i-1",
        "/shop/instances/i-2",
        "/shopping",
    ] {
        bench.put(name, "x");
    }
    let by_path = |path: &str, recursive: bool| json!({ "Path": path, "Recursive": recursive });
    let table: [(Value, &[&str]); 5] = [
        (by_path("/shop", false), &["/shop/current"]),
        (
            by_path("/shop/", true),
            &[
                "/shop/current",
                "/shop/instances/i-1",
                "/shop/instances/i-2",
            ],
        ),
        (
            by_path("/shop/instances", false),
            &["/shop/instances/i-1", "/shop/instances/i-2"],
        ),
        (by_path("/", false), &["/shopping", "root"]),
        (by_path("/shop/current", true), &[]),
    ];
    for (body, expected) in table {
        let shown = body.to_string();
        assert_eq!(
            bench.names("GetParametersByPath", body),
            expected,
            "{shown}"
        );
    }
    bench.ok(
        "AddTagsToResource",
        json!({ "ResourceType": "Parameter", "ResourceId": "root", "Tags": [{ "Key": "app", "Value": "shop" }, { "Key": "b", "Value": "" }] }),
    );
    bench.ok(
        "RemoveTagsFromResource",
        json!({ "ResourceType": "Parameter", "ResourceId": "root", "TagKeys": ["b"] }),
    );
    let tags = bench.ok(
        "ListTagsForResource",
        json!({ "ResourceType": "Parameter", "ResourceId": "root" }),
    );
    assert_eq!(
        tags,
        json!({ "TagList": [{ "Key": "app", "Value": "shop" }] })
    );
    let filter = |key: &str, option: Value, value: &str| json!({ "ParameterFilters": [{ "Key": key, "Option": option, "Values": [value] }] });
    let table: [(Value, &[&str]); 5] = [
        (filter("tag:app", Value::Null, "shop"), &["root"]),
        (
            filter("Name", json!("BeginsWith"), "/shop/i"),
            &["/shop/instances/i-1", "/shop/instances/i-2"],
        ),
        (filter("Name", json!("Contains"), "pp"), &["/shopping"]),
        (
            filter("Path", json!("Recursive"), "/shop/instances"),
            &["/shop/instances/i-1", "/shop/instances/i-2"],
        ),
        (filter("Type", Value::Null, "SecureString"), &[]),
    ];
    for (body, expected) in table {
        let shown = body.to_string();
        assert_eq!(bench.names("DescribeParameters", body), expected, "{shown}");
    }
}

#[test]
fn pages_are_ten_by_path_and_hold_each_once() {
    let mut bench = Bench::new();
    for number in 0..23 {
        bench.put(&format!("/p/{number:02}"), "x");
    }
    let (mut seen, mut token, mut sizes) = (Vec::new(), Value::Null, Vec::new());
    loop {
        let answer = bench.ok(
            "GetParametersByPath",
            json!({ "Path": "/p", "NextToken": token }),
        );
        let page = answer["Parameters"].as_array().unwrap().clone();
        sizes.push(page.len());
        seen.extend(page.into_iter().map(|p| p["Name"].to_string()));
        token = answer["NextToken"].clone();
        if token.is_null() {
            break;
        }
    }
    assert_eq!(sizes, [10, 10, 3]);
    seen.dedup();
    assert_eq!(seen.len(), 23);
}

#[test]
fn several_are_got_and_deleted_at_once() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    bench.put("/b", "2");
    let arn = "arn:aws:ssm:us-east-1:123456789012:parameter/a";
    let got = bench.ok("GetParameters", json!({ "Names": ["/b", "no", arn] }));
    assert_eq!(got["InvalidParameters"], json!(["no"]));
    assert_eq!(got["Parameters"][1]["ARN"], arn);
    let gone = bench.ok("DeleteParameters", json!({ "Names": ["a", "no"] }));
    assert_eq!(
        gone,
        json!({ "DeletedParameters": ["a"], "InvalidParameters": ["no"] })
    );
    bench.ok("DeleteParameter", json!({ "Name": "/b" }));
    assert_eq!(bench.value("/b"), None);
}

#[test]
fn a_secret_is_shown_only_with_decryption() {
    let mut bench = Bench::new();
    bench.ok(
        "PutParameter",
        json!({ "Name": "s", "Value": "secret", "Type": "SecureString" }),
    );
    assert_ne!(bench.value("s").unwrap(), "secret");
    let clear = bench.ok(
        "GetParameter",
        json!({ "Name": "s", "WithDecryption": true }),
    );
    assert_eq!(clear["Parameter"]["Value"], "secret");
    let listed = bench.ok("DescribeParameters", json!({}));
    assert_eq!(listed["Parameters"][0]["KeyId"], "alias/aws/ssm");
    assert!(listed["Parameters"][0].get("Value").is_none());
}

#[test]
fn debians_public_parameters_name_its_newest_image() {
    let mut bench = Bench::new();
    let name = "/aws/service/debian/release/12/latest/amd64";
    for asked in [
        name.to_owned(),
        format!("{name}:1"),
        format!("arn:aws:ssm:us-east-1::parameter{name}"),
    ] {
        let found = bench.ok("GetParameter", json!({ "Name": asked }));
        assert_eq!(found["Parameter"]["Value"], "ami-0debian", "{asked}");
        assert_eq!(found["Parameter"]["DataType"], "aws:ec2:image", "{asked}");
    }
    for absent in [
        "/aws/service/debian/release/99/latest/amd64",
        "/aws/service/debian/release//latest/amd64",
        "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64",
        &format!("{name}:2"),
    ] {
        let code = bench.code("GetParameter", json!({ "Name": absent }));
        assert_eq!(code, "ParameterNotFound", "{absent}");
    }
    let both = bench.ok(
        "GetParameters",
        json!({ "Names": [name, "/aws/service/x"] }),
    );
    assert_eq!(both["Parameters"][0]["Name"], name);
    assert_eq!(both["InvalidParameters"], json!(["/aws/service/x"]));
}
