//! A cloud of one instance on a loopback port: the metadata service, the Auto Scaling and parameter
//! store calls the agent makes, and a service to judge. Just enough of each wire format, written
//! from AWS's documentation and not from the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;

const TOKEN: &str = "a-token";

/// What the cloud is like, and what it was asked.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) user_data: Option<Vec<u8>>,
    pub(crate) target: Option<&'static str>,
    /// Further leaves below `meta-data/`.
    pub(crate) leaves: BTreeMap<&'static str, String>,
    pub(crate) image: &'static str,
    /// A target group that the group keeps itself.
    pub(crate) attached: Option<&'static str>,
    /// Whether the instance is registered with its one target group.
    pub(crate) in_target_group: bool,
    pub(crate) lifecycle: Option<&'static str>,
    pub(crate) healthy: bool,
    /// Further services, below `/services/NAME`.
    pub(crate) services: BTreeMap<&'static str, Health>,
    /// How often each of them was asked.
    pub(crate) asked: BTreeMap<String, usize>,
    /// The status of the group's newest instance refresh.
    pub(crate) refresh: Option<&'static str>,
    /// Calls of these names fail that many times more, with this code.
    pub(crate) faults: BTreeMap<&'static str, (u32, &'static str)>,
    pub(crate) parameters: BTreeMap<String, String>,
    /// `Action key=value …` of every call that changed something; heartbeats change nothing.
    pub(crate) calls: Vec<String>,
    /// How often a hook's timeout was restarted.
    pub(crate) heartbeats: usize,
    pub(crate) ipv1_asked: bool,
    /// Requests of the metadata service and of AWS.
    pub(crate) aws_asked: usize,
    /// The paths of the metadata service that were read.
    pub(crate) metadata_read: BTreeSet<String>,
    /// Whether the answer with the token is lost on its way, as with a hop limit that is too low.
    pub(crate) token_lost: bool,
}

/// How a service answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Fit,
    Sick,
    /// Not at all.
    Slow,
    /// Well and ill by turns.
    Flapping,
    /// 204: no work is left.
    Done,
}

#[derive(Clone)]
pub(crate) struct Cloud {
    facts: Arc<watch::Sender<Facts>>,
    pub(crate) url: String,
}

impl Cloud {
    pub(crate) async fn open() -> Self {
        let facts = Facts {
            user_data: None,
            target: None,
            leaves: BTreeMap::new(),
            image: "ami-0abc",
            attached: None,
            in_target_group: false,
            lifecycle: None,
            healthy: true,
            services: BTreeMap::new(),
            asked: BTreeMap::new(),
            refresh: None,
            faults: BTreeMap::new(),
            parameters: BTreeMap::new(),
            calls: Vec::new(),
            heartbeats: 0,
            ipv1_asked: false,
            aws_asked: 0,
            metadata_read: BTreeSet::new(),
            token_lost: false,
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let cloud = Self {
            facts: Arc::new(watch::Sender::new(facts)),
            url,
        };
        let door = Router::new().fallback(answer).with_state(cloud.clone());
        tokio::spawn(async move { axum::serve(listener, door).await });
        cloud
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Facts)) {
        self.facts.send_modify(change);
    }

    pub(crate) fn facts(&self) -> Facts {
        self.facts.borrow().clone()
    }

    /// Waits until the cloud fulfils the condition.
    pub(crate) async fn until(&self, so: impl FnMut(&Facts) -> bool) -> Facts {
        let mut facts = self.facts.subscribe();
        match tokio::time::timeout(crate::PATIENCE, facts.wait_for(so)).await {
            Ok(Ok(facts)) => facts.clone(),
            _ => panic!("it never came to that: {:#?}", self.facts()),
        }
    }

    fn fault(&self, action: &str) -> Option<&'static str> {
        let mut code = None;
        self.facts.send_if_modified(|facts| {
            if let Some((left, fault)) = facts.faults.get_mut(action).filter(|(left, _)| *left > 0)
            {
                *left -= 1;
                code = Some(*fault);
            }
            code.is_some()
        });
        code
    }
}

async fn answer(
    State(cloud): State<Cloud>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if uri.path().starts_with("/latest/") || method == Method::POST {
        cloud.change(|facts| facts.aws_asked += 1);
    }
    if let Some(target) = headers.get("x-amz-target") {
        return ssm(&cloud, target.to_str().unwrap(), &body);
    }
    match (method, uri.path()) {
        (Method::PUT, "/latest/api/token") if cloud.facts().token_lost => {
            std::future::pending().await
        }
        (Method::PUT, "/latest/api/token") => {
            let lives = "x-aws-ec2-metadata-token-ttl-seconds";
            (
                [(lives, headers[lives].to_str().unwrap().to_owned())],
                TOKEN,
            )
                .into_response()
        }
        (Method::GET, path) if path.starts_with("/latest/") => {
            if headers
                .get("x-aws-ec2-metadata-token")
                .is_none_or(|token| token != TOKEN)
            {
                cloud.change(|facts| facts.ipv1_asked = true);
                return StatusCode::UNAUTHORIZED.into_response();
            }
            let path = path.trim_start_matches("/latest/");
            cloud.change(|facts| {
                facts.metadata_read.insert(path.to_owned());
            });
            imds(&cloud.facts(), path)
        }
        (Method::GET, "/gtg") if cloud.facts().healthy => StatusCode::OK.into_response(),
        (Method::GET, "/gtg") => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        (Method::GET, path) if path.starts_with("/services/") => {
            let name = path.trim_start_matches("/services/");
            cloud.change(|facts| *facts.asked.entry(name.to_owned()).or_default() += 1);
            let facts = cloud.facts();
            match facts.services[name] {
                Health::Fit => StatusCode::OK.into_response(),
                Health::Flapping if facts.asked[name] % 2 == 0 => StatusCode::OK.into_response(),
                Health::Sick | Health::Flapping => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                Health::Done => StatusCode::NO_CONTENT.into_response(),
                Health::Slow => std::future::pending().await,
            }
        }
        (Method::GET, "/version") => r#"{"version":"1.2.3"}"#.into_response(),
        (Method::POST, "/") => {
            let body = std::str::from_utf8(&body).unwrap();
            if body.contains("Version=2015-12-01") {
                elb(&cloud, body, &headers)
            } else {
                autoscaling(&cloud, body)
            }
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn imds(facts: &Facts, path: &str) -> Response {
    let role = "meta-data/iam/security-credentials/";
    match path {
        "meta-data/instance-id" => "i-0abc".into_response(),
        "meta-data/ami-id" => facts.image.into_response(),
        "meta-data/placement/region" => "eu-west-3".into_response(),
        "user-data" => facts
            .user_data
            .clone()
            .map_or_else(|| StatusCode::NOT_FOUND.into_response(), IntoResponse::into_response),
        "meta-data/autoscaling/target-lifecycle-state" => facts
            .target
            .map_or_else(|| StatusCode::NOT_FOUND.into_response(), IntoResponse::into_response),
        _ if path == role || format!("{path}/") == role => "instance".into_response(),
        _ if path == format!("{role}instance") => r#"{"Code":"Success","Type":"AWS-HMAC",
            "AccessKeyId":"AKIDBOX","SecretAccessKey":"s3cr3t-of-the-instance","Token":"t0k3n-of-the-instance",
            "LastUpdated":"2026-01-01T00:00:00Z","Expiration":"2099-01-01T00:00:00Z"}"#
            .into_response(),
        _ => match path.strip_prefix("meta-data/") {
            Some(leaf) if facts.leaves.contains_key(leaf) => {
                facts.leaves[leaf].clone().into_response()
            }
            _ => StatusCode::NOT_FOUND.into_response(),
        },
    }
}

fn form(body: &str) -> BTreeMap<String, String> {
    body.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| {
            let value = value.replace("%3A", ":").replace("%2F", "/");
            (key.to_owned(), value)
        })
        .collect()
}

fn autoscaling(cloud: &Cloud, body: &str) -> Response {
    let form = form(body);
    let action = form["Action"].as_str();
    let error = |code: &str, message: &str| {
        let text = format!(
            "<ErrorResponse xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\"><Error>\
             <Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
             <RequestId>r</RequestId></ErrorResponse>"
        );
        (StatusCode::BAD_REQUEST, text).into_response()
    };
    if let Some(code) = cloud.fault(action) {
        return error(code, "Rate exceeded");
    }
    let facts = cloud.facts();
    let result = match action {
        "DescribeAutoScalingInstances" => {
            assert_eq!(form["InstanceIds.member.1"], "i-0abc");
            let member = facts.lifecycle.map_or_else(String::new, |state| {
                format!(
                    "<member><InstanceId>i-0abc</InstanceId>\
                     <AutoScalingGroupName>fleet</AutoScalingGroupName>\
                     <LifecycleState>{state}</LifecycleState></member>"
                )
            });
            format!("<AutoScalingInstances>{member}</AutoScalingInstances>")
        }
        "DescribeAutoScalingGroups" => {
            assert_eq!(form["AutoScalingGroupNames.member.1"], "fleet");
            let member = |id: &str| {
                format!(
                    "<member><InstanceId>{id}</InstanceId><AvailabilityZone>a</AvailabilityZone>\
                     <LifecycleState>InService</LifecycleState><HealthStatus>Healthy</HealthStatus>\
                     <ProtectedFromScaleIn>false</ProtectedFromScaleIn></member>"
                )
            };
            let attached = facts
                .attached
                .map_or_else(String::new, |name| format!("<member>{name}</member>"));
            let members = ["i-0abc", "i-0def", "i-0fff"].map(member).concat();
            format!(
                "<AutoScalingGroups><member><AutoScalingGroupName>fleet</AutoScalingGroupName>\
                 <MinSize>1</MinSize><MaxSize>9</MaxSize><DesiredCapacity>3</DesiredCapacity>\
                 <DefaultCooldown>300</DefaultCooldown><HealthCheckType>EC2</HealthCheckType>\
                 <CreatedTime>2026-01-01T00:00:00Z</CreatedTime><Instances>{members}</Instances>\
                 <TargetGroupARNs>{attached}</TargetGroupARNs>\
                 </member></AutoScalingGroups>"
            )
        }
        "DescribeLifecycleHooks" => {
            let hook = |name: &str, transition: &str| {
                format!(
                    "<member><LifecycleHookName>{name}</LifecycleHookName>\
                     <AutoScalingGroupName>fleet</AutoScalingGroupName>\
                     <LifecycleTransition>autoscaling:EC2_INSTANCE_{transition}</LifecycleTransition>\
                     <HeartbeatTimeout>30</HeartbeatTimeout></member>"
                )
            };
            let hooks = hook("in", "LAUNCHING") + &hook("out", "TERMINATING");
            format!("<LifecycleHooks>{hooks}</LifecycleHooks>")
        }
        "DescribeInstanceRefreshes" => {
            assert_eq!(form["AutoScalingGroupName"], "fleet");
            let refresh = facts.refresh.map_or_else(String::new, |status| {
                format!(
                    "<member><InstanceRefreshId>r-1</InstanceRefreshId>\
                     <AutoScalingGroupName>fleet</AutoScalingGroupName>\
                     <Status>{status}</Status></member>"
                )
            });
            format!("<InstanceRefreshes>{refresh}</InstanceRefreshes>")
        }
        "CompleteLifecycleAction" | "RecordLifecycleActionHeartbeat" | "SetInstanceHealth" => {
            let hook = form.get("LifecycleHookName").map(String::as_str);
            let waits = match hook {
                Some("in") => facts
                    .lifecycle
                    .is_some_and(|state| state.ends_with("Pending:Wait")),
                Some("out") => facts
                    .lifecycle
                    .is_some_and(|state| state.ends_with("Terminating:Wait")),
                _ => true,
            };
            if !waits || form["InstanceId"] != "i-0abc" {
                return error(
                    "ValidationError",
                    "No active Lifecycle Action found with instance ID i-0abc",
                );
            }
            let reported = form
                .get("LifecycleActionResult")
                .or(form.get("HealthStatus"));
            let call = [Some(action), hook, reported.map(String::as_str)];
            let call = call.into_iter().flatten().collect::<Vec<_>>().join(" ");
            cloud.change(|facts| {
                facts.lifecycle = match call.as_str() {
                    "CompleteLifecycleAction in CONTINUE"
                        if facts.lifecycle == Some("Warmed:Pending:Wait") =>
                    {
                        Some("Warmed:Stopped")
                    }
                    "CompleteLifecycleAction in CONTINUE" => Some("InService"),
                    "CompleteLifecycleAction in ABANDON" => Some("Terminating"),
                    "CompleteLifecycleAction out CONTINUE" => Some("Terminating:Proceed"),
                    _ => facts.lifecycle,
                };
                // Heartbeats come by the clock: how many is for the machine's speed to say.
                match action {
                    "RecordLifecycleActionHeartbeat" => facts.heartbeats += 1,
                    _ => facts.calls.push(call),
                }
            });
            String::new()
        }
        other => return error("InvalidAction", other),
    };
    let text = format!(
        "<{action}Response xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\">\
         <{action}Result>{result}</{action}Result>\
         <ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></{action}Response>"
    );
    ([("content-type", "text/xml")], text).into_response()
}

/// Elastic Load Balancing, as its API reference of 2015-12-01 has it: one target group.
fn elb(cloud: &Cloud, body: &str, headers: &HeaderMap) -> Response {
    let form = form(body);
    let action = form["Action"].as_str();
    let signature = headers["authorization"].to_str().unwrap();
    let scope = "/eu-west-3/elasticloadbalancing/aws4_request";
    assert!(signature.starts_with("AWS4-HMAC-SHA256 Credential=AKIDBOX/"));
    assert!(signature.contains(scope), "{signature}");
    assert_eq!(headers["x-amz-security-token"], "t0k3n-of-the-instance");
    assert!(headers.contains_key("x-amz-date"));
    assert!(form["TargetGroupArn"].starts_with("arn:aws:elasticloadbalancing:"));
    assert_eq!(form["Targets.member.1.Id"], "i-0abc");
    let space = "xmlns=\"http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/\"";
    if let Some(code) = cloud.fault(action) {
        let text = format!(
            "<ErrorResponse {space}><Error><Type>Sender</Type><Code>{code}</Code>\
             <Message>Rate exceeded</Message></Error><RequestId>r</RequestId></ErrorResponse>"
        );
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    let registered = cloud.facts().in_target_group;
    let result = match (action, registered) {
        ("DescribeTargetHealth", true) => "<State>healthy</State>",
        ("DescribeTargetHealth", false) => {
            "<State>unused</State><Reason>Target.NotRegistered</Reason>"
        }
        ("RegisterTargets" | "DeregisterTargets", _) => {
            cloud.change(|facts| {
                facts.in_target_group = action == "RegisterTargets";
                facts.calls.push(action.to_owned());
            });
            ""
        }
        (other, _) => panic!("{other}"),
    };
    let health = format!(
        "<TargetHealthDescriptions><member><HealthCheckPort>80</HealthCheckPort><TargetHealth>{result}\
         </TargetHealth><Target><Port>80</Port><Id>i-0abc</Id></Target></member>\
         </TargetHealthDescriptions>"
    );
    let result = if result.is_empty() { "" } else { &health };
    let text = format!(
        "<{action}Response {space}><{action}Result>{result}</{action}Result>\
         <ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></{action}Response>"
    );
    ([("content-type", "text/xml")], text).into_response()
}

fn ssm(cloud: &Cloud, target: &str, body: &[u8]) -> Response {
    let action = target.trim_start_matches("AmazonSSM.");
    let json = |status: StatusCode, text: String| {
        (
            status,
            [("content-type", "application/x-amz-json-1.1")],
            text,
        )
            .into_response()
    };
    if let Some(code) = cloud.fault(action) {
        let text = format!(r#"{{"__type":"{code}","message":"Rate exceeded"}}"#);
        return json(StatusCode::BAD_REQUEST, text);
    }
    let request: serde_json::Value = serde_json::from_slice(body).unwrap();
    if action == "GetParameters" {
        let names = request["Names"].as_array().unwrap();
        assert!(names.len() <= 10);
        let known = cloud.facts().parameters;
        let found: Vec<_> = names
            .iter()
            .filter_map(|name| Some((name.as_str()?, known.get(name.as_str()?)?)))
            .map(
                |(name, value)| serde_json::json!({"Name": name, "Value": value, "Type": "String"}),
            )
            .collect();
        let answer = serde_json::json!({"Parameters": found, "InvalidParameters": []});
        return json(StatusCode::OK, answer.to_string());
    }
    let name = request["Name"].as_str().unwrap().to_owned();
    match action {
        "PutParameter" => {
            assert_eq!(
                (&request["Type"], &request["Overwrite"]),
                (&"String".into(), &true.into())
            );
            let value = request["Value"].as_str().unwrap().to_owned();
            cloud.change(|facts| {
                facts.parameters.insert(name, value);
            });
            json(
                StatusCode::OK,
                r#"{"Version":1,"Tier":"Standard"}"#.to_owned(),
            )
        }
        "DeleteParameter" => {
            cloud.change(|facts| {
                facts.parameters.remove(&name);
                facts.calls.push("DeleteParameter".to_owned());
            });
            json(StatusCode::OK, "{}".to_owned())
        }
        _ => json(
            StatusCode::BAD_REQUEST,
            r#"{"__type":"InvalidAction"}"#.to_owned(),
        ),
    }
}
